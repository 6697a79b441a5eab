"""Training images that are read once and kept in memory, where they fit, and then on the model's device."""

__all__ = ["KeptDataset", "KeptImages"]

import copy
import logging
from typing import Any, cast

import torch
from anomalib.data import ImageBatch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Subset

from anomalib_scrd.training.device_rows import on_device
from anomalib_scrd.training.feature_cache import unsteady_step

logger = logging.getLogger(__name__)

_MEMORY = 2**30  # bytes, in each process of a training
_SHARE = 0.25  # of the free memory of a GPU


class KeptImages(Callback):
    """Keeps the training images of a fit in memory if all of them fit into 1 GiB.

    A training takes many times as many images as a small set holds: without this, decoding and resizing take a third
    of the time of a step of a small backbone, and starting worker processes for each of hundreds of epochs takes longer
    than the steps. Images that are kept need no worker processes; those of validation and test images stay.

    An epoch that begins when each image has been read moves them to the model's device, as one batch of all, for which
    a CPU needs twice the memory for a moment. From then on a batch is a selection of its rows: nothing is collated or
    copied from the host.

    The images and their order are those of a training without it. Nothing is kept where a transform of the training
    images may be random, where the data set reads its images in a way of its own, or without a data module. Images of
    several sizes, with a collate function of the user's, or too many for a quarter of a GPU's free memory stay in that
    of the host.
    """

    def __init__(self) -> None:
        self._kept: KeptDataset | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wrap the training set of the data module, before its loader exists.

        Args:
            trainer: Trainer, after its data module's ``setup``.
            pl_module: The model.
            stage: Images are kept in ``fit`` only.
        """
        del pl_module
        datamodule: Any = getattr(trainer, "datamodule", None)
        dataset = getattr(datamodule, "train_data", None)
        if stage != "fit" or dataset is None or not _steady(dataset):
            return
        kept = KeptDataset(dataset)
        needed = len(kept) * _bytes_of_first(kept)
        if 0 < needed <= _MEMORY:
            datamodule.train_data = self._kept = kept
            logger.info("The %d training images are kept in memory (%.3f GiB).", len(kept), needed / 2**30)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the training process read the images itself: a worker process would keep them to itself."""
        del pl_module
        loader = trainer.train_dataloader
        if isinstance(loader, DataLoader) and isinstance(loader.dataset, KeptDataset):
            # torch allows the two others with worker processes only.
            loader.num_workers, loader.prefetch_factor, loader.timeout = 0, None, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the images to the device, if each has been read."""
        loader = trainer.train_dataloader
        kept = getattr(loader, "dataset", None)
        if isinstance(kept, KeptDataset) and getattr(loader, "collate_fn", None) == kept.collate_fn:
            kept.move(pl_module.device)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Free the memory, and give the data module its own training set back."""
        del pl_module, stage
        kept, self._kept = self._kept, None
        if kept is None:
            return
        kept.forget()  # the trainer's loader keeps the object
        whole = kept.dataset
        datamodule: Any = getattr(trainer, "datamodule", None)
        if getattr(datamodule, "train_data", None) is kept:  # HeldOut may have restored the complete set
            datamodule.train_data = whole

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the training set back after a fit that failed."""
        del exception
        self.teardown(trainer, pl_module, "fit")


class KeptDataset(Subset):
    """Items of a data set, each of which is read once; everything else is the data set's own.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset, range(len(dataset)))
        self.dataset: Any
        self.forget()

    def forget(self) -> None:
        """Free the memory."""
        self._items: dict[int, Any] = {}
        self._all: ImageBatch | None = None

    def move(self, device: torch.device) -> None:
        """Make one batch of all items on a device, if each has been read, all have one form, and there is room."""
        forms = {tuple((name, _form(value)) for name, value in vars(item).items()) for item in self._items.values()}
        room = _SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _MEMORY
        if len(self._items) < len(self) or len(forms) != 1 or len(self) * _bytes_of_first(self) > room:
            return
        everything = self.dataset.collate_fn([self._items[index] for index in range(len(self))])
        if isinstance(everything, ImageBatch):
            self._all, self._items = move_data_to_device(everything, device), {}
            logger.info("The %d training images are on %s.", len(self), device)

    def __getitem__(self, index: int) -> Any:
        """An item, read if it was not; its tensors are shared with all later ones of the same index."""
        item = self._items.get(index)
        if item is None:
            item = self.dataset[index]
            if self._all is None:
                self._items[index] = item
        return copy.copy(item)

    def __getitems__(self, indices: list[int]) -> Any:
        """Items of a batch, or the batch itself if they are on the device."""
        if self._all is None:
            return [self[index] for index in indices]
        rows = on_device(indices, cast("torch.Tensor", self._all.image).device)
        fields: dict[str, Any] = {
            name: values.index_select(0, rows) if isinstance(values, torch.Tensor) else [values[i] for i in indices]
            for name, values in vars(self._all).items()
            if values is not None
        }
        return type(self._all)(**fields)

    def collate_fn(self, items: Any) -> Any:
        """Make a batch of items, unless they are one."""
        return items if isinstance(items, ImageBatch) else self.dataset.collate_fn(items)

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the data set."""
        if name == "dataset":  # of an object that is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _steady(dataset: Any) -> bool:
    """Whether a data set gives the same item for the same index each time."""
    read = getattr(type(dataset), "__getitem__", None)
    known = getattr(read, "__module__", "").partition(".")[0] in {"anomalib", "anomalib_scrd"}
    return known and hasattr(dataset, "samples") and unsteady_step(dataset) is None


def _form(value: Any) -> Any:
    """What has to be the same in all items: batches of images of several sizes resize them to the largest."""
    return (value.shape, value.dtype) if isinstance(value, torch.Tensor) else type(value)


def _bytes_of_first(dataset: Any) -> int:
    """Bytes of the tensors of the first item; 0 if it cannot be read, which the training reports."""
    try:
        values = vars(dataset[0]).values()
    except Exception:  # noqa: BLE001 - whatever a reader raises comes up again in the first epoch
        return 0
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
