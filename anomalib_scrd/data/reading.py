"""Errors that name the image file at fault."""

__all__ = [
    "NamesBrokenImages",
    "NamesUnreadableFiles",
    "UnreadableImageError",
    "check_images",
    "image_files",
    "naming_unreadable_files",
]

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataset
from anomalib.data.dataclasses import DatasetItem
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

_SHOWN = 5
_WORKERS = 8
# What Pillow raises for a file that is no image, is cut short, is broken inside, or claims a monstrous size.
_PILLOW_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)


class UnreadableImageError(OSError):
    """An image file that cannot be read."""


@contextmanager
def naming_unreadable_files(*paths: str) -> Iterator[None]:
    """Turn Pillow's errors into one that names the files.

    Args:
        paths: The files that are read inside; empty ones are left out.

    Raises:
        UnreadableImageError: If one of them cannot be read.
    """
    try:
        yield
    except UnreadableImageError:
        raise
    except _PILLOW_ERRORS as error:
        where = " or ".join(repr(path) for path in paths if path)
        msg = f"cannot read {where}: {error}. Is the file damaged, or was its download cut short?"
        raise UnreadableImageError(msg) from error


class NamesUnreadableFiles(AnomalibDataset):
    """Dataset whose reading errors name the file: Pillow's name none when an image ends too early."""

    def __getitem__(self, index: int) -> DatasetItem:
        """Read an image, and its mask if it has one.

        Args:
            index: Which one.

        Returns:
            anomalib's item.

        Raises:
            UnreadableImageError: If a file cannot be read.
        """
        sample = self.samples.iloc[index]
        with naming_unreadable_files(sample.image_path, sample.mask_path):
            return super().__getitem__(index)


class NamesBrokenImages(Callback):
    """Puts the broken files into the error of whoever read them, where Pillow names none: when one ends too early.

    They are looked for after the failure only; decoding every image beforehand would cost an epoch.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Find the files at fault, if the error is one of reading images, and name them in its message.

        Args:
            trainer: The trainer that failed.
            pl_module: Unused.
            exception: What stopped it.
        """
        del pl_module
        named = isinstance(exception, UnreadableImageError) or getattr(exception, "errno", None) is not None
        if not isinstance(exception, _PILLOW_ERRORS) or named:
            return
        broken = _broken(image_files(trainer), decode=True)
        if broken:
            exception.args = (_told(broken),)


def image_files(trainer: Trainer) -> list[str]:
    """Files of images and masks that a trainer's data module or loaders read.

    Args:
        trainer: The trainer.

    Returns:
        Each file once, without those of datasets that name a broken file themselves.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    datasets = [getattr(datamodule, f"{part}_data", None) for part in ("train", "val", "test")]
    datasets.append(getattr(getattr(trainer.lightning_module, "held_out", None), "dataset", None))
    for loaders in (
        trainer.train_dataloader,
        trainer.val_dataloaders,
        trainer.test_dataloaders,
        trainer.predict_dataloaders,
    ):
        several = loaders if isinstance(loaders, list) else [loaders]
        datasets += [getattr(loader, "dataset", None) for loader in several]
    files: dict[str, None] = {}
    for dataset in datasets:
        if isinstance(dataset, NamesUnreadableFiles):
            continue
        samples = getattr(dataset, "_samples", None)  # the public property raises where there are none
        columns = [] if samples is None else [samples[name] for name in ("image_path", "mask_path") if name in samples]
        for paths in (*columns, getattr(dataset, "image_filenames", ())):
            files |= dict.fromkeys(str(path) for path in paths if isinstance(path, (str, Path)) and str(path))
    return list(files)


def check_images(paths: Iterable[str | Path]) -> None:
    """Open the header of every file, so that a broken folder is reported before the training and not during it.

    Pixels are not decoded: an image that is cut short passes, and is named when it is read.

    Args:
        paths: Image files.

    Raises:
        UnreadableImageError: If some are no images, with their number and the first of them.
    """
    broken = _broken(paths, decode=False)
    if broken:
        raise UnreadableImageError(_told(broken))


def _broken(paths: Iterable[str | Path], *, decode: bool) -> list[str]:
    """Those of the files that Pillow cannot open, or not decode, each with the reason."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        return [path for path in pool.map(partial(_reading_error, decode=decode), paths) if path]


def _told(broken: list[str]) -> str:
    more = " ..." if len(broken) > _SHOWN else ""
    return f"{len(broken)} files are no readable images: {', '.join(broken[:_SHOWN])}{more}"


def _reading_error(path: str | Path, *, decode: bool) -> str | None:
    """The path and the reason if Pillow cannot open the file, None if it can."""
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return None
    except _PILLOW_ERRORS as error:
        empty = Path(path).is_file() and Path(path).stat().st_size == 0
        reason = "empty file" if empty else type(error).__name__ if not decode else str(error)
        return f"{str(path)!r} ({reason})"
