"""Data module of folders with medical images: DICOM, NIfTI, 16-bit PNG and TIFF, float TIFF, and ordinary files."""

__all__ = ["MedicalFolder"]

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName, Split, TestSplitMode, ValSplitMode
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

from anomalib_scrd.data.medical_dataset import MedicalDataset, SyntheticMedicalDataset
from anomalib_scrd.data.medical_table import MedicalSource, read_table
from anomalib_scrd.data.patient_groups import PatientSource, check_separate, groups_of, patient_finder, split_groups
from anomalib_scrd.data.validation import RepeatableDataModule
from anomalib_scrd.imaging import BadFiles, Preparation, Pseudonyms, VolumeOptions, Window, WindowSpec, read_picture

logger = logging.getLogger(__name__)

_DECIDING = 256  # number of training pictures from which the window is decided


class MedicalFolder(RepeatableDataModule):
    """Folders of medical images in their native depth; takes the arguments of anomalib's ``Folder``, and some more.

    One folder may contain all formats that ``anomalib_scrd.imaging`` reads: 8- and 16-bit PNG and TIFF, float TIFF,
    JPEG, DICOM of one or many frames, NIfTI. No image is reduced to 8 bits. Every picture is resized separately to the
    size of the model's input, so a score does not depend on the other images of its batch. Folders are searched
    recursively.

    The grey window (the values of black and white) is decided on the training images and stored in checkpoints and
    exports as the model's ``window``; a test or prediction with a trained model uses the stored one.

    No patient and no volume is on both sides of a split: normal images of patients with anomalous images go to the
    test, and a given split that shares patients is refused. Identifiers of patients are replaced by pseudonyms when
    they are read, and are not written to logs, tables or files. Names of files are not changed.

    Args:
        name: Name of the data set, for the results' folder.
        normal_dir: Folders of normal images for the training.
        root: Folder that the other folders are relative to; default: the working directory.
        abnormal_dir: Folders of anomalous images for the test.
        normal_test_dir: Folders of normal images for the test; None, the default, takes a share of ``normal_dir``.
        mask_dir: Folders of masks of the anomalous images: files of the same names, or of these names continued by "_",
            "-" or ".", in any format, above 0 at anomalies. In a volume with a mask, slices with an empty mask are
            normal.
        extensions: Suffixes of the files to take; None for all that can be read.
        window: auto, [centre, width], {"percentiles": [low, high]}, {"each": [low, high]}, file or {"file": number};
            see :meth:`anomalib_scrd.imaging.Window.decide`. It is decided on at most 256 training images.
        pad_to_square: Whether images are padded to a square with black, instead of being stretched to the model's
            input. Pixels that are not square are taken into account.
        volumes: Slices that are taken from a volume: plane, slices and skip_empty; see
            :class:`anomalib_scrd.imaging.VolumeOptions`.
        patients: Source of the patients' identifiers: dicom (PatientID), {"pattern": expression} searched in a file's
            path, {"csv": path, "file": column, "patient": column}, or null for none.
        patient_salt: File with the salt of the pseudonyms, created if it does not exist; None draws a salt that is not
            stored, so that pseudonyms differ from run to run.
        on_error: ``raise``, the default, refuses files that cannot be read before the training; ``skip`` decodes every
            file once, leaves unreadable ones out and logs them with the reasons.
        train_batch_size: Batch size in training.
        eval_batch_size: Batch size in validation, test and prediction.
        num_workers: Worker processes of the data loaders.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of the images for which none are given above.
        test_split_mode: ``from_dir``, ``synthetic`` (anomalies put on normal test images) or ``none``.
        test_split_ratio: Share of the normal images for the test if ``normal_test_dir`` is None, in (0, 1);
            default 0.2.
        val_split_mode: ``from_test``, ``from_train`` (normal images), ``synthetic`` (normal training images, half of
            them with synthetic anomalies), ``same_as_test`` or ``none``.
        val_split_ratio: Share of the test or training images for the validation, in (0, 1); default 0.5.
        seed: Seed of the splits and of synthetic anomalies; None, the default, for another result each time.

    Attributes:
        left_out: Files that could not be read, with the reasons, if ``on_error`` is skip.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Example:
        >>> from anomalib_scrd import MedicalFolder
        >>> data = MedicalFolder("ct", "normal", "study", window=[40, 400])
    """

    train_data: MedicalDataset
    val_data: MedicalDataset
    test_data: MedicalDataset

    def __init__(
        self,
        name: str,
        normal_dir: str | Path | Sequence[str | Path],
        root: str | Path | None = None,
        abnormal_dir: str | Path | Sequence[str | Path] | None = None,
        normal_test_dir: str | Path | Sequence[str | Path] | None = None,
        mask_dir: str | Path | Sequence[str | Path] | None = None,
        extensions: tuple[str, ...] | None = None,
        window: str | list[float] | dict[str, Any] = "auto",
        pad_to_square: bool = False,
        volumes: VolumeOptions | None = None,
        patients: str | dict[str, str] | None = "dicom",
        patient_salt: str | Path | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        if self.val_split_mode == ValSplitMode.FROM_DIR:
            allowed = [mode.value for mode in ValSplitMode if mode != ValSplitMode.FROM_DIR]
            msg = f"val_split_mode must be one of {allowed}, got 'from_dir'"
            raise ValueError(msg)
        self._name = name
        self.root = None if root is None else Path(root)
        self.source = MedicalSource(
            root=self.root,
            normal_dir=normal_dir,
            abnormal_dir=abnormal_dir,
            normal_test_dir=normal_test_dir,
            mask_dir=mask_dir,
            extensions=None if extensions is None else tuple(extensions),
            volumes=volumes or VolumeOptions(),
        )
        self.window: WindowSpec = window
        Window.check(window)
        self.pad_to_square = pad_to_square
        self.patients: PatientSource = patients
        self._pseudonyms = Pseudonyms(patient_salt)
        self._bad_files = BadFiles(on_error)
        self._patient_of = patient_finder(patients, self.root)
        self._preparation: Preparation | None = None
        self._given = False

    @property
    def name(self) -> str:  # type: ignore[override]  # as in anomalib's Folder
        """Name of the data set."""
        return self._name

    @property
    def left_out(self) -> dict[Path, str]:
        """Files that were left out, with the reasons."""
        return self._bad_files.left_out

    @property
    def window_state(self) -> dict[str, Any] | None:
        """Preparation of the files, in plain lists, numbers and strings; None before the set-up."""
        return None if self._preparation is None else self._preparation.to_dict()

    def use_window(self, state: Mapping[str, Any]) -> None:
        """Use the window of a trained model instead of one decided on this module's training images.

        Args:
            state: The model's ``window``.

        Raises:
            ValueError: If the model was trained on slices of another plane.
        """
        preparation = Preparation.from_dict(state)
        if preparation.volumes.plane != self.source.volumes.plane:
            msg = (
                f"the model was trained on {preparation.volumes.plane} slices, the data module takes "
                f"{self.source.volumes.plane} ones: give it volumes with the same plane"
            )
            raise ValueError(msg)
        self._preparation, self._given = preparation, True
        self._hand_out()

    def setup(self, stage: str | None = None) -> None:
        """Read the table of files, split it, and decide on the window.

        Args:
            stage: Lightning's stage.

        Raises:
            ValueError: If files, masks, patients or the window do not fit.
            UnreadableImageError: If files cannot be read and ``on_error`` is raise.
        """
        super().setup(stage)
        if self._preparation is None:
            window = Window.decide(self.window, self._training_pictures())
            self._preparation = Preparation(window, self.pad_to_square, self.source.volumes)
            logger.info("MedicalFolder: window %s", window.to_dict())
        self._hand_out()

    def _setup(self, _stage: str | None = None) -> None:
        table = read_table(self.source, self._patient_of, self._pseudonyms, self._bad_files)
        train, test = (table[table.split == split.value] for split in (Split.TRAIN, Split.TEST))
        self.train_data = self._data(train)
        self.test_data = self._data(test)

    def _create_test_split(self) -> None:
        if self.source.normal_test_dir is None and self.test_split_mode != TestSplitMode.NONE:
            # Normal images of a patient with anomalous images belong to the test.
            must = set(groups_of(self.test_data.samples)) & set(groups_of(self.train_data.samples))
            self.train_data, held_out = self._split(self.train_data, self.test_split_ratio, must)
            self.test_data = self.test_data + held_out
        elif self.patients is not None:
            check_separate(self.train_data.samples, self.test_data.samples, ("training", "test"))
        if self.test_split_mode == TestSplitMode.SYNTHETIC:
            samples = self.test_data.samples
            only_normal = samples.index[samples.label_index == LabelName.NORMAL].tolist()
            self.test_data = SyntheticMedicalDataset(
                cast("MedicalDataset", self.test_data.subsample(only_normal)), self.seed
            )

    def _create_val_split(self) -> None:
        mode = self.val_split_mode
        if mode in {ValSplitMode.FROM_TRAIN, ValSplitMode.SYNTHETIC}:
            self.train_data, self.val_data = self._split(self.train_data, self.val_split_ratio)
        elif mode == ValSplitMode.FROM_TEST:
            self.test_data, self.val_data = self._split(self.test_data, self.val_split_ratio)
        elif mode == ValSplitMode.SAME_AS_TEST:
            self.val_data = copy.deepcopy(self.test_data)
        if mode == ValSplitMode.SYNTHETIC:
            self.val_data = SyntheticMedicalDataset(self.val_data, self.seed)

    def _data(self, samples: DataFrame) -> MedicalDataset:
        return MedicalDataset(samples, self.name)

    def _split(self, data: MedicalDataset, ratio: float, must: set[str] | None = None) -> tuple[Any, Any]:
        first, second = split_groups(data.samples, ratio, self.seed, must or ())
        return data.subsample(first), data.subsample(second)

    def _training_pictures(self) -> Any:
        """Evenly spaced training pictures, read one after the other."""
        count = len(self.train_data)
        for index in np.unique(np.linspace(0, count - 1, min(count, _DECIDING)).round().astype(int)):
            yield read_picture(self.train_data.info(int(index)), self.source.volumes)

    def _hand_out(self) -> None:
        for part in ("train_data", "val_data", "test_data"):
            data: AnomalibDataset | None = getattr(self, part, None)
            if isinstance(data, MedicalDataset):
                data.preparation = self._preparation
