"""Data of a run: the data module, its normal training images split into fit and held-out parts, its test images."""

__all__ = ["Splits", "make_splits"]

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName, ValSplitMode
from lightning.pytorch.trainer.states import TrainerFn
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
    def training_view(self) -> Iterator[None]:
        """Remove held-out and test images from the data module during a training."""
        for subset in ("val_data", "test_data"):
            if hasattr(self.module, subset):
                delattr(self.module, subset)
        try:
            yield
        finally:
            self.module.test_data = self.test
            if self.held_out is not None:
                self.module.val_data = self.held_out

    def loader(self, images: AnomalibDataset) -> DataLoader:
        """Loader of one of the parts, with the data module's settings for tests."""
        collate = self.module.external_collate_fn or images.collate_fn
        return DataLoader(images, self.module.eval_batch_size, num_workers=self.module.num_workers, collate_fn=collate)

    def counts(self) -> dict[str, int]:
        """Count the images of each part."""
        anomalous = int((self.test.samples.label_index == LabelName.ABNORMAL).sum())
        test = {"test_normal": len(self.test) - anomalous, "test_anomalous": anomalous}
        return {"fit": len(self.module.train_data), "held_out": len(self.held_out or ()), **test}

    def digest(self) -> str:
        """Eight hexadecimal digits that depend on names and parent folders of the images, not on their location."""
        parts = [self.module.train_data, *([] if self.held_out is None else [self.held_out]), self.test]
        names = [["/".join(Path(path).parts[-2:]) for path in part.samples.image_path] for part in parts]
        return hashlib.sha256(repr(names).encode()).hexdigest()[:8]


def make_splits(module: AnomalibDataModule, holdout: float, seed: int) -> Splits:
    """Set up a data module without a validation split and hold out some of its normal training images.

    anomalib's modules validate on test images by default; here every test image stays in the test set.

    Args:
        module: A data module before its ``setup``.
        holdout: Share of the normal training images to hold out, in [0, 1).
        seed: Seed of the choice among the sorted file names, so all models get the same split.

    Returns:
        The parts.

    Raises:
        ValueError: If there are too few images for a held-out part, or test images of one kind only.
    """
    module.val_split_mode = ValSplitMode.NONE
    if module.seed is None:  # or a split of normal test images would differ each time
        module.seed = seed
    module.setup(TrainerFn.FITTING)  # with this stage the trainer does not set it up again
    test, train = module.test_data, module.train_data
    if not (test.has_normal and test.has_anomalous):
        msg = f"the test set of {module.name!r} needs normal and anomalous images, its {len(test)} are of one kind"
        raise ValueError(msg)
    if holdout == 0:
        return Splits(module, None, test)
    normal = [index for index, label in enumerate(train.samples.label_index) if label == LabelName.NORMAL]
    count = round(holdout * len(normal))
    if count < 1 or count >= len(train):
        msg = f"holdout {holdout} of {len(normal)} normal training images leaves {count} of them; take more"
        raise ValueError(msg)
    order = torch.randperm(len(normal), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = {normal[index] for index in order[:count]}
    module.train_data = train.subsample([index for index in range(len(train)) if index not in chosen])
    return Splits(module, train.subsample(sorted(chosen)), test)
