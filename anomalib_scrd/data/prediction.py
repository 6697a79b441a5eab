"""Prediction on files of any format: `engine.predict(data_path=...)` and `anomalib predict --data PATH`."""

__all__ = ["MedicalPredictDataset", "read_any_format"]

import functools
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule
from torch.utils.data import Dataset
from torchvision.transforms.v2 import Resize
from torchvision.tv_tensors import Image

from anomalib_scrd.data.items import MedicalBatch, MedicalItem
from anomalib_scrd.data.medical_dataset import as_tensor
from anomalib_scrd.data.resizing import resize_of
from anomalib_scrd.imaging import (
    BadFiles,
    PictureInfo,
    Preparation,
    Pseudonyms,
    Window,
    list_files,
    read_picture,
    survey,
)

_EIGHT_BIT = Preparation(Window("values", eight_bit=(0.0, 255.0)))


class MedicalPredictDataset(Dataset):
    """Pictures of a file or folder, prepared like the model's training images.

    It replaces anomalib's ``PredictDataset`` for every format.

    Files are listed when the first item or the length is requested, after a checkpoint has been loaded.

    Args:
        path: A file, or a folder, which is searched recursively.
        model: The trained model, whose ``window`` and input size are used; None for ``window`` and no resizing.
        window: A stored window, from a data module's ``window_state``; None for the model's. Without any window, 8-bit
            pictures are read and deeper ones refused.
        on_error: Handling of files that cannot be read: ``raise`` (default) or ``skip``.
        patient_salt: File with the salt of the pseudonyms; None draws a salt that is not stored.

    Attributes:
        left_out: Files that were left out, with the reasons.

    Raises:
        FileNotFoundError: If there is no such path.
        ValueError: If no file in the folder has a known suffix.
    """

    def __init__(
        self,
        path: str | Path,
        model: LightningModule | None = None,
        window: Mapping[str, Any] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        patient_salt: str | Path | None = None,
    ) -> None:
        super().__init__()
        self._files = list_files(path)
        if not self._files:
            msg = f"Found 0 images in {path}"
            raise ValueError(msg)
        self._model = model
        self._window = window
        self._bad_files = BadFiles(on_error)
        self._pseudonyms = Pseudonyms(patient_salt)

    @property
    def left_out(self) -> dict[Path, str]:
        """Files that were left out, with the reasons."""
        return self._bad_files.left_out

    @cached_property
    def preparation(self) -> Preparation:
        """Preparation of the files."""
        state = self._window or getattr(self._model, "window", None)
        return _EIGHT_BIT if state is None else Preparation.from_dict(state)

    @cached_property
    def pictures(self) -> list[PictureInfo]:
        """The pictures of all files."""
        return survey(self._files, self.preparation.volumes, self._bad_files)

    @cached_property
    def _resize(self) -> Resize | None:
        return resize_of(getattr(getattr(self._model, "pre_processor", None), "transform", None))

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> MedicalItem:
        """Read a picture.

        Args:
            index: Index of the picture.

        Returns:
            The item; its image is (3, H, W), float32 in [0, 1].

        Raises:
            UnreadableImageError: If it cannot be read; the message names the file.
        """
        info = self.pictures[index]
        image = as_tensor(self.preparation(read_picture(info, self.preparation.volumes)).image)
        image = Image(image) if self._resize is None else self._resize(Image(image))
        return MedicalItem(
            image=Image(image.expand(3, -1, -1)),
            image_path=info.name,
            patient=self._pseudonyms.of(info.patient),
            volume=self._pseudonyms.of(info.volume),
            sample=index,
        )

    @property
    def collate_fn(self) -> Callable[..., Any]:
        """The function that makes batches of items."""
        return MedicalBatch.collate


def read_any_format(model_class: type[LightningModule]) -> None:
    """Make ``Engine.predict`` read a path with :class:`MedicalPredictDataset` for one class of models.

    anomalib's engine builds its own ``PredictDataset``, which reads 8-bit RGB only; other models keep it. A second call
    has no effect.

    Args:
        model_class: The class.
    """
    from anomalib.engine import Engine

    if getattr(Engine.predict, "anomalib_scrd", False):
        return
    original = Engine.predict

    @functools.wraps(original)
    def predict(self: Engine, *args: Any, **kwargs: Any) -> Any:
        path = kwargs.get("data_path")
        model: Any = args[0] if args else kwargs.get("model") or self.model
        if path is not None and kwargs.get("dataset") is None and isinstance(model, model_class):
            kwargs |= {"data_path": None, "dataset": MedicalPredictDataset(path, model)}
        return original(self, *args, **kwargs)

    predict.anomalib_scrd = True  # type: ignore[attr-defined]
    Engine.predict = predict  # type: ignore[method-assign]
