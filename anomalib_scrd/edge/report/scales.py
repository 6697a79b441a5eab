"""Maps of the scales, as written by ``anomalib_scrd.export.training_scores``."""

__all__ = ["Scales", "load_scales"]

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalib_scrd.edge.heat import coloured, heat
from anomalib_scrd.edge.records import Record


@dataclass(frozen=True)
class Scales:
    """Maps of the teacher's levels for one picture.

    Args:
        maps: (K, h, w), standardised, finest level first.
        weights: (K,) weights of the levels in the anomaly map.
        layers: Names of the levels.
    """

    maps: np.ndarray
    weights: np.ndarray
    layers: tuple[str, ...]

    def pictures(self) -> Iterator[tuple[str, np.ndarray, float, float]]:
        """Colour the levels on a common scale up to their highest value.

        Yields:
            Name of the level, (h, w, 3) uint8, its weight, its highest value.
        """
        top = max(float(self.maps.max()), 1e-6)
        for layer, level, weight in zip(self.layers, self.maps, self.weights, strict=True):
            yield layer, coloured(heat(level, top / 2)), float(weight), float(level.max())


def load_scales(folder: Path, record: Record) -> Scales | None:
    """Load the levels of one picture.

    Args:
        folder: Folder of the training's scores.
        record: The picture.

    Returns:
        The levels; None if there are none.
    """
    path = folder / "scales" / f"{record.path}.{record.picture:04d}.npz"
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return Scales(
            arrays["maps"].astype(np.float32), arrays["weights"], tuple(str(layer) for layer in arrays["layers"])
        )
