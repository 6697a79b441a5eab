"""Collects the raw predictions of a model."""

__all__ = ["PredictionCollector"]

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from torch.nn import functional as F  # noqa: N812
from torch.utils.benchmark import timer


class PredictionCollector(Callback):
    """Keeps the raw predictions of a prediction loop and times its batches.

    It precedes the model's pre-processor among the callbacks, so the time of a batch includes pre-processing and the
    model, but not the loading of images.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Drop all predictions."""
        self.paths: list[str] = []
        self._parts: dict[str, list[torch.Tensor]] = {"scores": [], "labels": [], "maps": [], "masks": []}
        self._seconds: list[tuple[float, int]] = []
        self._started = 0.0

    def on_predict_batch_start(self, *args: Any) -> None:
        """Start the clock."""
        del args
        self._started = timer()

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        """Stop the clock and keep the raw outputs."""
        del trainer, pl_module, args
        elapsed = timer() - self._started
        self.add(outputs)
        self._seconds.append((elapsed, len(outputs.image)))

    def add(self, outputs: Any) -> None:
        """Keep the raw outputs of a batch, in float32 on the CPU; maps and masks have the size of the masks.

        Raises:
            ValueError: If there is neither a score nor a map.
        """
        maps = None if outputs.anomaly_map is None else _drop_channel(outputs.anomaly_map).float()  # (B, H, W)
        if outputs.pred_score is not None:
            scores = outputs.pred_score.float().reshape(-1)
        elif maps is not None:
            scores = maps.amax(dim=(-2, -1))
        else:
            msg = "the model returns neither pred_score nor anomaly_map"
            raise ValueError(msg)
        found = {"scores": scores, "labels": outputs.gt_label.reshape(-1).long()}
        if maps is not None:
            if outputs.gt_mask is not None:
                found["masks"] = mask = _drop_channel(outputs.gt_mask) != 0
                maps = F.interpolate(maps.unsqueeze(1), size=mask.shape[-2:], mode="bilinear").squeeze(1)
            found["maps"] = maps
        for name, value in found.items():
            self._parts[name].append(value.cpu())
        self.paths.extend(outputs.image_path)

    def array(self, name: str) -> Any:
        """``scores`` (N,), ``labels`` (N,) with 1 = anomalous, ``maps``, ``masks`` (N, H, W); None if none."""
        return torch.cat(self._parts[name]).numpy() if self._parts[name] else None

    @property
    def milliseconds_per_image(self) -> float:
        """Median over full batches, without the first one if there are others."""
        most = max(size for _, size in self._seconds)
        full = [seconds / size for seconds, size in self._seconds if size == most]
        return 1000 * float(np.median(full[1:] or full))


def _drop_channel(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) or (B, H, W) as a plain (B, H, W)."""
    plain = images.as_subclass(torch.Tensor)
    return plain.squeeze(1) if plain.ndim == 4 else plain  # noqa: PLR2004
