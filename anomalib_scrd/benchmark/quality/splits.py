"""Data of a run: the data module, its normal training images split into fit and held-out parts, its test images."""

__all__ = ["Splits", "make_splits", "synthetic_anomalies"]

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName, ValSplitMode
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch import seed_everything
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader


@dataclass
class Splits:
    """The data module of a run and its parts.

    Args:
        module: Data module whose training data is the fit part.
        held_out: Normal training images that the model is not trained on, None without a held-out part.
        test: Test images.
    """

    module: AnomalibDataModule
    held_out: AnomalibDataset | None
    test: AnomalibDataset

    @contextmanager
    def training_view(self) -> Iterator[AnomalibDataModule]:
        """Yield the data module as the training sees it: held-out and test images are not in it at all."""
        for subset in ("val_data", "test_data"):
            if hasattr(self.module, subset):
                delattr(self.module, subset)
        try:
            yield self.module
        finally:
            self.module.test_data = self.test
            if self.held_out is not None:
                self.module.val_data = self.held_out

    def loader(self, images: AnomalibDataset) -> DataLoader:
        """Load one of the parts as the data module loads its images, in its batches for tests."""
        return DataLoader(
            images,
            batch_size=self.module.eval_batch_size,
            num_workers=self.module.num_workers,
            collate_fn=self.module.external_collate_fn or images.collate_fn,
        )

    def counts(self) -> dict[str, int]:
        """Count the images of each part."""
        labels = self.test.samples.label_index
        return {
            "fit": len(self.module.train_data),
            "held_out": 0 if self.held_out is None else len(self.held_out),
            "test_normal": int((labels == LabelName.NORMAL).sum()),
            "test_anomalous": int((labels == LabelName.ABNORMAL).sum()),
        }

    def digest(self) -> str:
        """Eight hexadecimal digits that change with the files of the parts (their names, wherever they lie)."""
        parts = [self.module.train_data, *([] if self.held_out is None else [self.held_out]), self.test]
        paths = [[str(path) for path in part.samples.image_path] for part in parts]
        root = os.path.commonpath([path for part in paths for path in part])
        text = "\n".join("|".join(Path(path).relative_to(root).as_posix() for path in part) for part in paths)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def make_splits(module: AnomalibDataModule, holdout: float, seed: int) -> Splits:
    """Set up a data module without a validation split and hold out some of its normal training images.

    anomalib's modules validate on test images by default; here every test image stays in the test set.

    Args:
        module: A data module that was not set up yet.
        holdout: Share of the normal training images to hold out, in [0, 1).
        seed: Seed of the choice. It goes by the sorted file names, so all models get the same split.

    Returns:
        The parts.

    Raises:
        ValueError: If the training set is too small for a held-out part, or the test set lacks normal or anomalous
            images.
    """
    module.val_split_mode = ValSplitMode.NONE
    if module.seed is None:  # a module that takes its normal test images from the training set would draw afresh
        module.seed = seed
    module.setup(TrainerFn.FITTING)  # with the trainer's own stage the trainer doesn't set it up again
    test, train = module.test_data, module.train_data
    if not (test.has_normal and test.has_anomalous):
        msg = (
            f"the test set of {module.name!r} needs normal and anomalous images, its {len(test)} images are of one kind"
        )
        raise ValueError(msg)
    splits = Splits(module, None, test)
    normal = [index for index, label in enumerate(train.samples.label_index) if label == LabelName.NORMAL]
    count = round(holdout * len(normal))
    if holdout == 0:
        return splits
    if count < 1 or count >= len(train):
        msg = f"holdout {holdout} of {len(normal)} normal training images leaves {count} of them; take more"
        raise ValueError(msg)
    order = torch.randperm(len(normal), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = {normal[index] for index in order[:count]}
    splits.held_out = train.subsample(sorted(chosen))
    module.train_data = train.subsample([index for index in range(len(train)) if index not in chosen])
    return splits


def synthetic_anomalies(held_out: AnomalibDataset, seed: int) -> AnomalibDataset:
    """Anomalous copies of half of the held-out normal images, by anomalib's Perlin generator.

    The generator is anomalib's own and belongs to none of the models compared, so that none of them is scored on the
    kind of anomaly that it was trained with.

    Args:
        held_out: Normal images.
        seed: Seed of the anomalies; the caller's random state is left as it was.

    Returns:
        The anomalous images only.

    Raises:
        ValueError: If there are fewer than two normal images.
    """
    if len(held_out) < 2:  # noqa: PLR2004
        msg = f"threshold method 'synthetic' needs at least 2 held-out images, got {len(held_out)}; raise holdout"
        raise ValueError(msg)
    with isolate_rng():
        seed_everything(seed, verbose=False)
        mixed = SyntheticAnomalyDataset.from_dataset(held_out)
    anomalous = [index for index, label in enumerate(mixed.samples.label_index) if label == LabelName.ABNORMAL]
    return mixed.subsample(anomalous, inplace=True)
