"""Adds the file and the reason to some errors of anomalib and Pillow."""

__all__ = ["ExplainedDataErrors"]

from pathlib import Path
from typing import Any

from anomalib.data import Folder
from anomalib.data.errors import MisMatchError
from anomalib.data.utils.path import resolve_path
from lightning.pytorch import Callback, LightningModule, Trainer
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_scrd.data.checks import datasets_of
from anomalib_scrd.data.file_checks import files_for_anomalib, undecodable
from anomalib_scrd.data.medical_table import MedicalSource, pair_masks
from anomalib_scrd.data.unreadable_files import PILLOW_ERRORS, UnreadableImageError

_REFUSED_PATH = "Path contains non-printable characters: "


class ExplainedDataErrors(Callback):
    """Extends the message of an error that is raised while data is read.

    - A broken image: its file, which Pillow does not name if it is truncated. The file is searched after the failure;
      decoding every image beforehand would take an epoch.
    - A path that anomalib refuses: the character at fault.
    - Masks that do not match the images of anomalib's ``Folder``: the images without a mask.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Rewrite the message of an error of these kinds.

        Args:
            trainer: The trainer that failed.
            pl_module: Unused.
            exception: The error that stopped it.
        """
        del pl_module
        named = isinstance(exception, UnreadableImageError) or getattr(exception, "errno", None) is not None
        message = None
        if isinstance(exception, PILLOW_ERRORS) and not named:
            message = undecodable(files_for_anomalib(datasets_of(trainer)))
        elif isinstance(exception, ValueError) and str(exception).startswith(_REFUSED_PATH):
            message = _refused_character(str(exception).removeprefix(_REFUSED_PATH))
        elif isinstance(exception, (MisMatchError, ValueError)):
            message = _missing_masks(getattr(trainer, "datamodule", None))
        if message:
            exception.args = (message,)


def _refused_character(path: str) -> str:
    refused = next((character for character in path if not " " <= character <= "~"), "")
    if not refused:
        return f"anomalib refuses the path {path!r}"
    return (
        f"anomalib refuses the path {path!r} for {refused!r} (U+{ord(refused):04X}) in it: it takes ASCII only. "
        "Rename the file or folder, or link to it under another name; MedicalFolder takes every name"
    )


def _missing_masks(datamodule: Any) -> str | None:
    """Anomalous images of a `Folder` without a mask; None if all have one, or the error has another cause."""
    if not isinstance(datamodule, Folder) or hasattr(datamodule, "train_data") or not datamodule.mask_dir:
        return None
    suffixes = tuple(datamodule.extensions or IMG_EXTENSIONS)
    root = resolve_path(datamodule.root) if datamodule.root else Path()
    source = MedicalSource(root, datamodule.normal_dir, extensions=suffixes)
    try:
        images = source.files(datamodule.abnormal_dir, "abnormal_dir")
        pair_masks(images, source.files(datamodule.mask_dir, "mask_dir"))
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None
