"""Data module of drawn images."""

__all__ = ["PhantomSlices"]

import logging
from pathlib import Path

from anomalib.data.datasets.image.folder import FolderDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform

from anomalib_scrd.data.phantom_drawing import LESION_SIZES
from anomalib_scrd.data.phantom_files import PhantomSpec, is_drawn, write_phantoms
from anomalib_scrd.data.validation import RepeatableDataModule
from anomalib_scrd.integration.command_line import short_errors

logger = logging.getLogger(__name__)


class PhantomSlices(RepeatableDataModule):
    """Drawn axial head slices with lesions of three sizes and their masks, for a first run without data.

    The slices are synthetic: a score on them only shows that the installation works. They are drawn once and kept as
    8-bit grey PNG files: ``train/good``, ``valid/{good,small,medium,large}``, ``test/{good,small,medium,large}``, masks
    in ``valid_ground_truth`` and ``ground_truth``. They are drawn again if parameters differ or files are missing; the
    same parameters and seed give the same files.

    Validation takes the slices of ``valid``, which are in neither the training nor the test set, so that thresholds and
    normalisation do not depend on test slices.

    Args:
        root: Folder for the drawn files; new, empty or drawn by this class before. Hidden folders (a component that
            starts with a dot) work, but anomalib warns about them.
        image_size: Height and width in pixels, or one number for both; 32 or more, default 128.
        n_train: Number of healthy training slices, 1 or more, as for the other numbers of slices.
        n_val_good: Number of healthy validation slices.
        n_val_lesions: Number of validation slices for each of the three sizes of lesion.
        n_test_good: Number of healthy test slices.
        n_test_lesions: Number of test slices for each of the three sizes of lesion.
        train_batch_size: Batch size in training.
        eval_batch_size: Batch size in validation, test and prediction.
        num_workers: Worker processes of the data loaders; 0 by default, because the files are small.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of the images for which none are given above.
        val_split_mode: ``from_dir`` (the drawn validation slices), ``synthetic`` (anomalib's synthetic anomalies on
            some training slices), ``from_train``, ``from_test``, ``same_as_test`` or ``none``.
        val_split_ratio: Share of the images that go to validation if they are taken from another set, in (0, 1);
            default 0.2.
        seed: Seed of the slices and of the splits, 0 or more.

    Raises:
        ValueError: If a number is out of range; the message names it.
    """

    def __init__(
        self,
        root: Path | str = "./datasets/PhantomSlices",
        image_size: int | tuple[int, int] = (128, 128),
        n_train: int = 150,
        n_val_good: int = 24,
        n_val_lesions: int = 8,
        n_test_good: int = 40,
        n_test_lesions: int = 20,
        train_batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_DIR,
        val_split_ratio: float = 0.2,
        seed: int = 0,
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
        with short_errors():
            if not isinstance(root, str | Path):
                msg = f"root must be a path, got {root!r}"
                raise ValueError(msg)  # noqa: TRY004 - as for the other arguments
            self.root = Path(root)
            height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
            self.spec = PhantomSpec(
                height=height,
                width=width,
                n_train=n_train,
                n_val_good=n_val_good,
                n_val_lesions=n_val_lesions,
                n_test_good=n_test_good,
                n_test_lesions=n_test_lesions,
                seed=seed,
            )
        self._announced = False

    def prepare_data(self) -> None:
        """Draw the slices unless they exist, and warn once that they are synthetic.

        Raises:
            ValueError: If ``root`` has files that were not drawn by this class.
        """
        if not self._announced:
            self._announced = True
            logger.warning(
                "PhantomSlices: the images are drawn, not measured. Scores on them only show that the installation "
                "works. Files: %s",
                self.root,
            )
        if not is_drawn(self.root, self.spec):
            write_phantoms(self.root, self.spec)

    def _setup(self, _stage: str | None = None) -> None:
        if not is_drawn(self.root, self.spec):  # for callers that skip prepare_data
            self.prepare_data()
        self.train_data = self._folder("test", Split.TRAIN)
        self.test_data = self._folder("test", Split.TEST)
        if self.val_split_mode == ValSplitMode.FROM_DIR:
            self.val_data = self._folder("valid", Split.TEST)

    def _folder(self, part: str, split: Split) -> FolderDataset:
        """Training slices, or all slices of ``test`` or ``valid``."""
        masks = "ground_truth" if part == "test" else "valid_ground_truth"
        return FolderDataset(
            name=self.name,
            root=self.root,
            normal_dir="train/good",
            normal_test_dir=f"{part}/good",
            abnormal_dir=[f"{part}/{kind}" for kind in LESION_SIZES],
            mask_dir=[f"{masks}/{kind}" for kind in LESION_SIZES],
            split=split,
        )
