"""Medical images: every 2-D picture of a file in its native depth, windowed to float32 in [0, 1].

Importing this package needs NumPy and Pillow only; DICOM, NIfTI and some TIFF files need the extra ``medical``.

Example:
    >>> from anomalib_scrd.imaging import Preparation, Window, list_files, list_pictures, read_picture, read_pictures
    >>> files = list_files("study")  # doctest: +SKIP
    >>> preparation = Preparation(Window.decide("auto", read_pictures(files)))  # doctest: +SKIP
    >>> for info in list_pictures(files[0]):  # doctest: +SKIP
    ...     image = preparation(read_picture(info)).channels  # (H, W, 3), float32 in [0, 1]
"""

__all__ = [
    "BadFiles",
    "Orientation",
    "Padding",
    "Picture",
    "PictureInfo",
    "Preparation",
    "Prepared",
    "Pseudonyms",
    "UnreadableImageError",
    "VolumeOptions",
    "Window",
    "WindowSpec",
    "display_image",
    "find_picture",
    "list_files",
    "list_pictures",
    "pictures_of",
    "read_picture",
    "read_pictures",
    "survey",
]

from anomalib_scrd.imaging.display import display_image, find_picture
from anomalib_scrd.imaging.errors import UnreadableImageError
from anomalib_scrd.imaging.files import (
    BadFiles,
    list_files,
    list_pictures,
    pictures_of,
    read_picture,
    read_pictures,
    survey,
)
from anomalib_scrd.imaging.orientation import Orientation
from anomalib_scrd.imaging.padding import Padding
from anomalib_scrd.imaging.patients import Pseudonyms
from anomalib_scrd.imaging.picture import Picture, PictureInfo
from anomalib_scrd.imaging.preparation import Preparation, Prepared
from anomalib_scrd.imaging.volumes import VolumeOptions
from anomalib_scrd.imaging.window import Window, WindowSpec
