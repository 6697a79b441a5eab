"""Normal training images that the student is not trained on, for the scale weights and the thresholds."""

__all__ = ["ENOUGH", "HeldOut", "held_out_indices"]

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.data.utils import LabelName
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Resize, Transform

logger = logging.getLogger(__name__)

ENOUGH = 500
"""Largest number of held-out images: more slow down every validation and hardly improve a threshold."""

# Images of the training set that are scored for the covariance of the evidence: more do not change the weights.
_TRAINED = 200
# Fewest held-out images, unless they exceed a quarter of the set: a tenth of a small set is too few for a threshold.
_FEW = 8
_SMALL_SET_SHARE = 4
# With fewer images than this, starting worker processes takes longer than reading the images.
_WORTH_WORKERS = 64
_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


class HeldOut(Callback):
    """Takes a share of the normal images out of the training set during a fit.

    The split is made when the trainer sets up a fit: after the data module's own ``setup`` and before the training
    loader exists. Each image is ranked by a hash of the seed and of its path below the folder that all training images
    share. The split is therefore the same in every process of a distributed training, in a resumed training and after
    the folder has been moved, and nearly the same after images have been added. Images whose names differ in their last
    number only (slices of one volume, frames of one sequence) stay together, because they are more similar to each
    other than to a new image, unless one such group is larger than the held-out part.

    Validation and test images are not changed. A data module without validation images gets the held-out ones as its
    validation set. After the fit, or if it fails, the data module's own training set is restored.

    Without an ``AnomalibDataModule`` (loaders were given to ``fit``), or where its training set cannot be subsampled,
    nothing is held out and a warning is logged; thresholds then come from the normal validation images alone.

    Args:
        share: Share of the normal training images, in [0, 1); 0 for none. At least the smaller of 8 images and a
            quarter of the set is held out, and at most :data:`ENOUGH` images; at least one image remains.
        seed: Seed of the choice, 0 by default. A checkpoint stores share and seed, which a resumed fit uses.

    Attributes:
        dataset: The held-out images, read and augmented like validation images; None if there are none.
        left_out_scores: (N,) score of each held-out image by weights that were fitted without it, if there are few;
            else None. See :func:`~anomalib_scrd.scoring.fitting.fit_weights`.

    Raises:
        ValueError: If share is not in [0, 1).
    """

    def __init__(self, share: float, seed: int = 0) -> None:
        if isinstance(share, bool) or not 0 <= share < 1:
            msg = f"the share of held-out images must be in [0, 1), got {share!r}"
            raise ValueError(msg)
        self.share = float(share)
        self.seed = int(seed)
        self.dataset: AnomalibDataset | None = None
        self.left_out_scores: torch.Tensor | None = None
        self._trained: AnomalibDataset | None = None
        self._batch_size = 1
        self._num_workers = 0
        self._collate: Callable | None = None
        self._taken_from: tuple[AnomalibDataModule, AnomalibDataset, bool] | None = None
        self._request: tuple[Any, Any, Transform | None, bool] | None = None

    def __len__(self) -> int:
        """Number of images that are held out."""
        return 0 if self.dataset is None else len(self.dataset)

    @property
    def training_set(self) -> AnomalibDataset | None:
        """All training images, the held-out ones included; None outside of a fit."""
        return None if self._taken_from is None else self._taken_from[1]

    def loader(self, *, trained: bool = False) -> DataLoader:
        """A loader of the held-out images in a fixed order, in batches of the data module's ``eval_batch_size``.

        Args:
            trained: Whether to load up to 200 normal images that the student is trained on instead.

        Raises:
            ValueError: If no images are held out.
        """
        dataset = self._trained if trained else self.dataset
        if dataset is None:
            msg = "no images are held out: there is nothing to load"
            raise ValueError(msg)
        return DataLoader(
            dataset,
            batch_size=self._batch_size,
            num_workers=self._num_workers if len(dataset) >= _WORTH_WORKERS else 0,
            collate_fn=self._collate or dataset.collate_fn,
            generator=torch.Generator().manual_seed(0),  # a loader without one draws from the training's random state
        )

    def images(self, model: LightningModule, *, trained: bool = False) -> Iterator[torch.Tensor]:
        """Held-out images as the input of the model's forward pass in a validation.

        Args:
            model: Model whose device and pre-processor are used.
            trained: As in :meth:`loader`.

        Yields:
            Batches (B, 3, H, W), pre-processed, on the model's device; none if no images are held out.
        """
        if self.dataset is None:
            return
        transform = getattr(getattr(model, "pre_processor", None), "transform", None)
        for batch in self.loader(trained=trained):
            images = batch.image.to(model.device)
            yield images if transform is None else transform(images)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hold images out at the start of a fit.

        Args:
            trainer: Trainer, after its data module's ``setup``.
            pl_module: Model with its pre-processor.
            stage: Images are held out for ``fit`` only.
        """
        if stage == "fit":
            transform = getattr(getattr(pl_module, "pre_processor", None), "transform", None)
            self.take(getattr(trainer, "datamodule", None), transform, validate=bool(trainer.limit_val_batches))

    def take(self, datamodule: Any, transform: Transform | None = None, *, validate: bool = True) -> None:
        """Hold out images of a data module, replacing earlier ones.

        Args:
            datamodule: Data module that has been set up.
            transform: The model's pre-processing; its resize is applied to the held-out images, so that they can be
                collated.
            validate: Whether a data module without validation images gets the held-out ones.
        """
        self.give_back()
        self.dataset = self._trained = self.left_out_scores = None
        self._request = datamodule, getattr(datamodule, "train_data", None), transform, validate
        if not self.share:
            return
        obstacle = _obstacle(datamodule)
        chosen: list[int] = []
        if obstacle is None:
            whole = datamodule.train_data
            normal = _normal(whole)
            chosen = held_out_indices(whole.samples.image_path, self.share, self.seed, normal, _together(whole.samples))
            if not chosen:
                obstacle = f"the {len(whole)} training images are too few, or from too few patients or volumes"
        if obstacle is not None:
            logger.warning(
                "No normal training images are held out, because %s. Thresholds come only from the normal validation "
                "images.",
                obstacle,
            )
            return
        kept = set(chosen)
        self.dataset = whole.subsample(chosen)
        rest = [index for index in range(len(whole)) if index not in kept]
        known = [index for index in rest if normal[index]]
        some = torch.randperm(len(known), generator=torch.Generator().manual_seed(self.seed))[:_TRAINED].tolist()
        self._trained = whole.subsample([known[index] for index in sorted(some)])
        self.dataset.augmentations = self._trained.augmentations = _as_in_validation(datamodule, transform)
        self._batch_size, self._num_workers = datamodule.eval_batch_size, datamodule.num_workers
        self._collate = datamodule.external_collate_fn  # a tiled ensemble's takes one tile of each image
        datamodule.train_data = whole.subsample(rest)
        fill_in = validate and not hasattr(datamodule, "val_data")
        if fill_in:
            datamodule.val_data = self.dataset
        self._taken_from = datamodule, whole, fill_in
        logger.info("%d of %d normal training images are held out for thresholds.", len(chosen), len(whole))

    def give_back(self) -> None:
        """Restore the data module's own training set; the held-out images stay available here."""
        self._request = None
        if self._taken_from is None:
            return
        datamodule, whole, filled_in = self._taken_from
        datamodule.train_data = whole
        if filled_in:
            del datamodule.val_data
        self._taken_from = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the training set after a fit."""
        del trainer, pl_module
        if stage == "fit":
            self.give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the training set after a fit that failed."""
        del trainer, pl_module, exception
        self.give_back()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, so that a resumed fit holds the same images out."""
        return {"share": self.share, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold out the same images as the checkpoint's training: the student was trained on the others."""
        if state_dict == self.state_dict():
            return
        self.share, self.seed = float(state_dict["share"]), int(state_dict["seed"])
        if self._request is not None:  # within a fit
            datamodule, whole, transform, validate = self._request
            self.give_back()
            if whole is not None:  # other callbacks may have wrapped it
                datamodule.train_data = whole
            self.take(datamodule, transform, validate=validate)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the images: an exported or copied model does not need the paths of its training set."""
        gone = ("dataset", "_trained", "left_out_scores", "_collate", "_taken_from", "_request")
        return {**self.__dict__, **dict.fromkeys(gone)}


def held_out_indices(
    paths: Sequence[str],
    share: float,
    seed: int = 0,
    normal: Sequence[bool] | None = None,
    together: Sequence[str] | None = None,
) -> list[int]:
    """Choose the images that are held out.

    Args:
        paths: Files of the training images, n of them.
        share: Share of the normal ones, in [0, 1); 0 for none.
        seed: Seed of the choice.
        normal: n flags; other images are never chosen. None if all are normal.
        together: n names of groups, for example patients, whose images are held out together; "" for an image without
            a group. None, or no group at all, groups files by the numbers in their names.

    Returns:
        Indices into ``paths``, in increasing order: close to ``share`` of the normal images, see :class:`HeldOut` for
        small and large sets; none from fewer than four.
    """
    folder = os.path.commonpath([Path(path).parent for path in paths]) if len(paths) else ""
    names = [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths]
    if together is not None:  # medical images: the split does not depend on the format
        names = [name.removesuffix(Path(name).suffix) for name in names]
    candidates = [index for index in range(len(names)) if normal is None or normal[index]]
    wanted = min(max(round(share * len(candidates)), min(_FEW, len(candidates) // _SMALL_SET_SHARE)), ENOUGH)
    wanted = min(wanted, len(candidates) - 1)
    if not share or wanted < 1:
        return []
    known = _first_names(together or [""] * len(names), names)
    keys = [name or _LAST_NUMBER.sub("#", names[index]) for index, name in enumerate(known)]
    sizes = Counter(keys[index] for index in candidates)
    # Groups by number are split if they are too large; patients are never split.
    keys = [keys[i] if known[i] or sizes[keys[i]] <= wanted else names[i] for i in range(len(names))]
    groups: dict[str, list[int]] = {}
    for index in candidates:
        groups.setdefault(keys[index], []).append(index)
    smallest = min(map(len, groups.values()))
    if smallest <= len(candidates) // _SMALL_SET_SHARE:  # of few large groups a complete one is held out
        wanted = max(wanted, smallest)
    chosen: list[int] = []
    for key in sorted(groups, key=lambda key: blake2b(f"{seed}:{key}".encode()).digest()):
        if len(chosen) + len(groups[key]) <= wanted:
            chosen += groups[key]
    return sorted(chosen)


def _first_names(together: Sequence[str], names: Sequence[str]) -> list[str]:
    """Replace the name of each group, which may differ between processes, by its first file; "" for none."""
    first: dict[str, str] = {"": ""}
    for group, name in zip(together, names, strict=True):
        first.setdefault(group, name)
    return [first[group] for group in together]


def _together(samples: Any) -> list[str] | None:
    """Patient, or volume, of each image of a table with these columns, "" for none."""
    if not {"patient", "volume"} <= set(samples.columns):
        return None
    return list(samples.patient.where(samples.patient != "", samples.volume))


def _obstacle(datamodule: Any) -> str | None:
    """Why no images can be held out, None if they can."""
    if datamodule is None:
        return "fit was called with loaders and without a data module"
    if not isinstance(datamodule, AnomalibDataModule):
        return f"{type(datamodule).__name__} is not one of anomalib's data modules"
    train = getattr(datamodule, "train_data", None)
    if not isinstance(train, AnomalibDataset) or getattr(train, "_samples", None) is None:
        return f"train_data of {type(datamodule).__name__} is not a dataset with a table of samples"
    return None


def _normal(dataset: AnomalibDataset) -> list[bool]:
    samples = dataset.samples
    if "label_index" not in samples:
        return [True] * len(samples)
    return [label == LabelName.NORMAL for label in samples.label_index]


def _as_in_validation(datamodule: AnomalibDataModule, transform: Transform | None) -> Transform | None:
    """Transforms of validation images: the data module's own augmentations of them and the model's resize."""
    for part in ("val_data", "test_data"):
        if hasattr(datamodule, part):
            return getattr(datamodule, part).augmentations
    steps = [datamodule.val_augmentations, *extract_transforms_by_type(transform, Resize)[:1]]
    steps = [step for step in steps if step is not None]
    return Compose(steps) if steps else None
