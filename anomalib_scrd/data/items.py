"""Items and batches of medical images, with the patient and the volume that they belong to."""

__all__ = ["MedicalBatch", "MedicalItem"]

from dataclasses import dataclass
from typing import ClassVar

from anomalib.data.dataclasses.torch import ImageBatch, ImageItem
from torch import Tensor


@dataclass
class MedicalItem(ImageItem):
    """An image with the pseudonyms of its patient and its volume.

    ``image_path`` is the name of the picture: the file's path, with the number of the frame or slice before the suffix
    if the file has several. anomalib's own items require an existing path of printable ASCII.

    Args:
        patient: Pseudonym of the patient, "" if unknown.
        volume: Pseudonym of the series or volume, "" if there is none.
        sample: Index in the data set; names may repeat (page 1 of ``a.tif`` and the file ``a_0001.tif``).
    """

    patient: str = ""
    volume: str = ""
    sample: int | None = None

    @staticmethod
    def validate_image_path(image_path: str | None) -> str | None:
        """Accept any name of a picture."""
        return None if image_path is None else str(image_path)

    @staticmethod
    def validate_mask_path(mask_path: str | None) -> str | None:
        """Accept any path of a mask."""
        return str(mask_path) if mask_path else None


@dataclass
class MedicalBatch(ImageBatch):
    """A batch of :class:`MedicalItem`.

    Args:
        patient: (B,) pseudonyms of the patients.
        volume: (B,) pseudonyms of the volumes.
        sample: (B,) indices in the data set.
    """

    item_class: ClassVar[type[MedicalItem]] = MedicalItem

    patient: list[str] | None = None
    volume: list[str] | None = None
    sample: Tensor | None = None
