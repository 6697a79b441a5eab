"""anomalib's image visualizer with the decision in the pictures, and a table of all predictions."""

__all__ = ["DecisionVisualizer"]

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image

from anomalib_scrd.atomic_files import replacing
from anomalib_scrd.data.items import MedicalItem
from anomalib_scrd.imaging import Preparation, UnreadableImageError, display_image
from anomalib_scrd.training.console import say
from anomalib_scrd.visualisation.frame import Frame, map_frame
from anomalib_scrd.visualisation.picture import Prediction, draw
from anomalib_scrd.visualisation.table import Row, format_table, write_table

logger = logging.getLogger(__name__)

_TABLE = "predictions.csv"
# Modes that Pillow converts to RGB correctly; others (16-bit, floating point) become white.
_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}


class DecisionVisualizer(ImageVisualizer):
    """Pictures and a table of a test or prediction.

    Each picture shows score, label and threshold, the image, the anomaly map with a bar whose middle is the threshold
    (raw maps are calibrated for it), the outline of anomalous regions, and the ground truth if there is one. The map is
    placed correctly also if the pre-processing crops or pads. Pictures are PNG files below ``output_dir``, in the
    folders of their images, and ``predictions.csv`` has file, score, label, truth and picture. A prediction also prints
    the table.

    If a picture or the table cannot be written (a full disk), one error is logged, no further pictures are drawn, and
    the test or prediction continues.

    Args:
        output_dir: Folder of the pictures; None, the default, for ``images`` in the trainer's folder of results.
        size: Longer side of each panel of a picture, in pixels, at least 32; default 256.

    Raises:
        ValueError: If size is not a whole number of at least 32.
    """

    def __init__(self, output_dir: str | Path | None = None, size: int = 256) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 32:  # noqa: PLR2004
            msg = f"size must be a whole number of pixels, at least 32, got {size!r}"
            raise ValueError(msg)
        super().__init__(field_size=(size, size), output_dir=output_dir)
        self.size = size
        self._folder = Path()
        self._rows: list[Row] = []
        self._taken: dict[Path, str] = {}
        self._frames: dict[tuple[tuple[int, int], tuple[int, int]], Frame] = {}
        self._writes = True

    def visualize(
        self,
        predictions: Any,
        transforms: Sequence[Any] = (),
        threshold: float | None = 0.5,
    ) -> Image.Image | list[Image.Image | None] | None:
        """Draw the pictures of predictions.

        Args:
            predictions: An item or a batch with calibrated predictions, of torch or NumPy.
            transforms: Transforms of the images, for the position of the map, see
                :func:`~anomalib_scrd.visualisation.frame.map_frame`.
            threshold: Calibrated threshold of the score; None without one.

        Returns:
            A picture, or a list of them for several images; None where there is no map or no image to show.
        """
        if hasattr(predictions, "items") and hasattr(predictions, "batch_size"):
            pictures = [self._picture(item, transforms, threshold) for item in predictions]
            return pictures[0] if len(pictures) == 1 else pictures
        return self._picture(predictions, transforms, threshold)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        del pl_module
        self._begin(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        del pl_module
        self._begin(trainer)

    def on_test_batch_end(  # type: ignore[override]  # anomalib's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: ImageBatch,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw and write the pictures of a batch, and add its rows to the table."""
        del outputs, batch_idx
        transforms = [_read_with(trainer, dataloader_idx), getattr(pl_module.pre_processor, "transform", None)]
        threshold = _threshold(pl_module)
        names = getattr(trainer, "datamodule", None)
        for item in batch:
            source = str(item.image_path or f"image_{len(self._rows):06d}")
            window = getattr(pl_module, "window", None)
            around_half = getattr(pl_module.post_processor, "map_around_half", None)
            picture = self._picture(item, transforms, threshold, window, around_half) if self._writes else None
            target = None
            if picture is not None:
                target = self._target(source, getattr(names, "name", None), getattr(names, "category", None))
                target = self._write(picture, target)
            self._rows.append(
                Row(
                    file=source,
                    score=float(torch.as_tensor(item.pred_score)),
                    label=_word(item.pred_label),
                    truth=_word(item.gt_label),
                    picture="" if target is None else str(target),
                    patient=getattr(item, "patient", ""),
                    volume=getattr(item, "volume", ""),
                )
            )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table."""
        del pl_module
        self._end(trainer, shown=False)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table and print it."""
        del pl_module
        self._end(trainer, shown=True)

    def _begin(self, trainer: Trainer) -> None:
        self._folder = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        self._rows, self._taken, self._frames = [], {}, {}
        self._writes = True

    def _end(self, trainer: Trainer, *, shown: bool) -> None:
        rows = _of_all_processes(self._rows, trainer)
        self._rows = []
        if not rows or not trainer.is_global_zero:
            return
        table = self._folder / _TABLE
        written = True
        try:
            write_table(rows, table)
        except OSError as error:
            written = False
            logger.error("%s", error)  # noqa: TRY400 - a traceback would not help
        if shown:
            print(format_table(rows))  # noqa: T201 - the user's output
        drawn = sum(bool(row.picture) for row in rows)
        say(f"pictures: {drawn} in {self._folder}" + (f", with a table in {table.name}" if written else ""))

    def _picture(
        self,
        item: Any,
        transforms: Sequence[Any],
        threshold: float | None,
        window: Any = None,
        around_half: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Image.Image | None:
        anomaly_map = _plane(getattr(item, "anomaly_map", None))
        if anomaly_map is None:
            return None
        mask, truth = _plane(item.pred_mask), _plane(item.gt_mask)
        image = _original(item, window)
        if image is None:
            image, frame = _model_input(item.image), None
            if image is None:
                return None
        else:
            frame = self._frame(transforms, (image.height, image.width), anomaly_map.shape)
        if around_half is not None and threshold is not None:
            anomaly_map = around_half(torch.as_tensor(anomaly_map)).cpu().numpy()
        label = None if item.pred_label is None or threshold is None else bool(item.pred_label)
        prediction = Prediction(
            score=float(item.pred_score),
            threshold=threshold if label is not None else None,
            label=label,
            anomaly_map=anomaly_map if label is not None else _without_threshold(anomaly_map),
            mask=None if mask is None else mask > 0,
            truth=None if truth is None else truth > 0,
        )
        return draw(image, prediction, frame or Frame(0, 0, image.width, image.height), self.size)

    def _frame(self, transforms: Sequence[Any], image_size: tuple[int, int], map_size: Any) -> Frame:
        key = image_size, tuple(map_size)
        if key not in self._frames:
            self._frames[key] = map_frame(transforms, *key)
        return self._frames[key]

    def _target(self, source: str, name: str | None, category: str | None) -> Path:
        """File of a picture: unique for each image, also if names differ only in their suffix."""
        target = generate_output_filename(source, self._folder, name, category, mkdir=False)
        for candidate in (target.with_suffix(".png"), target.with_name(f"{target.name}.png")):
            if self._taken.setdefault(candidate, source) == source:
                return candidate
        number = 2
        while self._taken.setdefault(target.with_name(f"{target.name}.{number}.png"), source) != source:
            number += 1
        return target.with_name(f"{target.name}.{number}.png")

    def _write(self, picture: Image.Image, target: Path) -> Path | None:
        try:
            with replacing(target, "picture") as part:
                picture.save(part, format="PNG")
        except OSError as error:
            self._writes = False
            logger.error("%s. No further pictures are drawn.", error)  # noqa: TRY400
            return None
        return target


def _threshold(model: Any) -> float | None:
    """Calibrated threshold of the score, None without one."""
    processor = getattr(model, "post_processor", None)
    if processor is None or not getattr(processor, "has_thresholds", True):
        return None
    if hasattr(processor, "output_thresholds"):
        return float(processor.output_thresholds[0])
    return float(processor.normalized_image_threshold if processor.enable_normalization else processor.image_threshold)


def _read_with(trainer: Trainer, dataloader_idx: int) -> Any:
    """Transforms that a dataset applies after reading an image."""
    loaders = trainer.test_dataloaders if trainer.testing else trainer.predict_dataloaders
    several = list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
    dataset = getattr(several[dataloader_idx], "dataset", None) if dataloader_idx < len(several) else None
    return getattr(dataset, "augmentations", None) or getattr(dataset, "transform", None)


def _plane(values: Any) -> NDArray[Any] | None:
    """(H, W) of a map or mask of torch or NumPy, possibly with a channel."""
    if values is None:
        return None
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    return array.reshape(array.shape[-2:])


def _original(item: Any, window: Any) -> Image.Image | None:
    """The image on disk as RGB, a medical one through the model's window; None if it cannot be shown."""
    if not isinstance(item, MedicalItem):
        return _opened(item.image_path)
    try:
        preparation = None if window is None else Preparation.from_dict(window)
        return Image.fromarray(display_image(item.image_path or "", preparation))
    except UnreadableImageError:
        return None


def _opened(path: str | None) -> Image.Image | None:
    """The image on disk as RGB, None if Pillow cannot show it."""
    if not path:
        return None
    try:
        with Image.open(path) as image:
            return image.convert("RGB") if image.mode in _EIGHT_BITS else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _model_input(image: Any) -> Image.Image | None:
    """The model's input (3, H, W), stretched from its darkest to its brightest value."""
    if image is None:
        return None
    tensor = torch.as_tensor(np.asarray(image)) if not isinstance(image, torch.Tensor) else image
    values = tensor.detach().cpu().float().as_subclass(torch.Tensor)
    low, high = values.min(), values.max()
    grey = (255 * (values - low) / (high - low).clamp_min(1e-12)).round().to(torch.uint8)
    return Image.fromarray(grey.permute(1, 2, 0).numpy()).convert("RGB")


def _without_threshold(anomaly_map: NDArray[Any]) -> NDArray[np.float32]:
    """Scale a raw map to the lower half of the colour bar: without a threshold nothing is anomalous."""
    low, high = float(np.nanmin(anomaly_map)), float(np.nanmax(anomaly_map))
    return (0.5 * (anomaly_map - low) / max(high - low, 1e-12)).astype(np.float32)


def _word(label: Any) -> str:
    return "" if label is None else "anomalous" if bool(label) else "normal"


def _of_all_processes(rows: list[Row], trainer: Trainer) -> list[Row]:
    if trainer.world_size == 1:
        return rows
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, rows)
    return list(dict.fromkeys(row for part in gathered for row in part))  # a sampler repeats some images
