"""Checks of the data before a training, validation, test or prediction begins."""

__all__ = ["check_data", "datasets_of", "loaders_of"]

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import Subset

from anomalib_scrd.data.degenerate_sets import check_sets
from anomalib_scrd.data.file_checks import check_images, files_for_anomalib
from anomalib_scrd.data.resizing import resize_each_image, warn_of_shapes


def check_data(trainer: Trainer, stage: str, transform: Any = None) -> None:
    """Check the data of a run, and apply the model's resizing to loaders that were passed to it.

    Args:
        trainer: The trainer, with its data module or loaders.
        stage: Lightning's stage: fit, validate, test or predict.
        transform: Transform of the model's pre-processor.

    Raises:
        UnreadableImageError: If files cannot be read as images, or anomalib's reader would reduce their depth to 8
            bits.
        ValueError: If a model cannot be trained on the images, see ``check_sets``.
    """
    datasets = datasets_of(trainer)
    images = files_for_anomalib(datasets, ["image_path"])
    check_images(images, set(files_for_anomalib(datasets, ["mask_path"])) - set(images))
    loaders = loaders_of(trainer)
    resize_each_image(loaders, transform)
    sizes = [getattr(getattr(trainer, "datamodule", None), f"{part}_batch_size", None) for part in ("train", "eval")]
    sizes += [getattr(loader, "batch_size", None) for loader in loaders]
    warn_of_shapes(images, transform, max((size for size in sizes if size), default=1))
    if stage == "fit":
        datamodule = getattr(trainer, "datamodule", None)
        sets = (getattr(datamodule, f"{part}_data", None) for part in ("train", "val", "test"))
        training, validation, test = map(_unwrapped, sets)
        # Images that are held out from the student are training images.
        held_out = getattr(trainer.lightning_module, "held_out", None)
        everything = getattr(held_out, "training_set", None) or training
        if validation is not None and validation is getattr(held_out, "dataset", None):
            validation = None  # they replace a missing validation set
        check_sets(everything, validation, test, held_out=bool(held_out))


def datasets_of(trainer: Trainer) -> list[Any]:
    """List the data sets of a trainer's data module and loaders.

    Args:
        trainer: The trainer.

    Returns:
        The data sets; a torch ``Subset`` is replaced by the data set inside it.
    """
    datamodule = getattr(trainer, "datamodule", None)
    found = [getattr(datamodule, f"{part}_data", None) for part in ("train", "val", "test")]
    found.append(getattr(getattr(trainer.lightning_module, "held_out", None), "dataset", None))
    found += [getattr(loader, "dataset", None) for loader in loaders_of(trainer)]
    return [_unwrapped(dataset) for dataset in found if dataset is not None]


def loaders_of(trainer: Trainer) -> list[Any]:
    """List the loaders that were passed to a trainer, or that it created from its data module.

    Args:
        trainer: The trainer.

    Returns:
        The loaders.
    """
    # Lightning's attributes have passed loaders only after the set-up.
    loops = (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop)
    passed = [getattr(loop, "_data_source", None) for loop in (*loops, trainer.predict_loop)]
    found: list[Any] = [getattr(source, "instance", None) for source in passed]
    found += [trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders, trainer.predict_dataloaders]
    return [loader for loader in _flat(found) if hasattr(loader, "dataset")]


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        elif isinstance(value, dict):
            yield from _flat(value.values())
        elif value is not None:
            yield value


def _unwrapped(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset
