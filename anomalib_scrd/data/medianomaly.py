"""Data module of the seven sets of the MedIAnomaly benchmark."""

__all__ = ["MedIAnomaly", "MedIAnomalyDataset"]

from pathlib import Path

from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

from anomalib_scrd.data.file_checks import check_images
from anomalib_scrd.data.layouts import find_set, read_set
from anomalib_scrd.data.unreadable_files import FileNamingDataset
from anomalib_scrd.data.validation import RepeatableDataModule


class MedIAnomalyDataset(FileNamingDataset):
    """Images of one split of one set.

    Args:
        samples: Table of the complete set, from ``read_set``.
        category: Name of the set.
        split: Split to take.
        augmentations: Augmentations of the images.
    """

    def __init__(
        self,
        samples: DataFrame,
        category: str,
        split: Split,
        augmentations: Transform | None = None,
    ) -> None:
        super().__init__(augmentations=augmentations)
        self.category = category
        self.samples = samples[samples.split == split.value].reset_index(drop=True)


class MedIAnomaly(RepeatableDataModule):
    """One of the seven sets of MedIAnomaly (Cai et al., arXiv 2404.04518), with its published split.

    Training takes normal images only. Sets without masks are classification tasks (all but BraTS2021). anomalib reads
    the images: 8 bits, grey ones as three equal channels.

    The release has no validation images. By default a tenth of the training images is held out and half of them get
    anomalib's synthetic anomalies, so that thresholds and normalisation do not come from the test set; with ``none``
    none is, and ``ScaleAwareCRD`` takes its thresholds from the images that it holds out itself.

    The headers of all files are opened at set-up, so that missing, empty and foreign files are reported before the
    training; other damage is reported when a file is read.

    Args:
        name: RSNA, VinCXR, BrainTumor, LAG, ISIC2018_Task3 (or ISIC2018), Camelyon16 or BraTS2021.
        root: Folder that contains the folder of the set, or that folder itself.
        train_batch_size: Batch size in training.
        eval_batch_size: Batch size in validation, test and prediction.
        num_workers: Worker processes of the data loaders.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of the images for which none are given above.
        val_split_mode: ``synthetic`` (described above), ``from_train`` (held-out normal images), ``from_test`` (part of
            the test images, which then leave the test set), ``same_as_test`` or ``none``.
        val_split_ratio: Share of the training or test images that goes to validation, in (0, 1); default 0.1.
        seed: Seed of the split and of the synthetic anomalies; None for another result each time.

    Raises:
        ValueError: If there is no set of this name, ``val_split_mode`` is ``from_dir``, or the files do not have the
            set's layout.
    """

    def __init__(
        self,
        name: str,
        root: Path | str = "./datasets/MedIAnomaly",
        train_batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: ValSplitMode | str = ValSplitMode.SYNTHETIC,
        val_split_ratio: float = 0.1,
        seed: int | None = 0,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            test_split_mode=TestSplitMode.FROM_DIR,
            seed=seed,
        )
        if self.val_split_mode == ValSplitMode.FROM_DIR:
            allowed = [mode.value for mode in ValSplitMode if mode != ValSplitMode.FROM_DIR]
            msg = f"val_split_mode must be one of {allowed} (the release has no validation folder), got 'from_dir'"
            raise ValueError(msg)
        self.root = Path(root)
        self.category = find_set(name)

    def _setup(self, _stage: str | None = None) -> None:
        samples = read_set(self.category, self.root)
        check_images(samples.image_path, (path for path in samples.mask_path if path))
        self.train_data = MedIAnomalyDataset(samples, self.category, Split.TRAIN)
        self.test_data = MedIAnomalyDataset(samples, self.category, Split.TEST)
