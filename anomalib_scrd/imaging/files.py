"""Lists and reads the pictures of files and folders, and handles files that cannot be read."""

__all__ = [
    "SUFFIXES",
    "BadFiles",
    "has_geometry",
    "is_volume",
    "list_files",
    "list_pictures",
    "may_hold_pictures",
    "pictures_of",
    "read_picture",
    "read_pictures",
    "read_unchecked",
    "survey",
]

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from anomalib_scrd.imaging import dicom, pillow, volumes
from anomalib_scrd.imaging.errors import UnreadableImageError, reading
from anomalib_scrd.imaging.picture import Picture, PictureInfo, check_pixels
from anomalib_scrd.imaging.volumes import VolumeOptions

_DICOM = (".dcm", ".dicom", ".ima")
_VOLUMES = (".nii", ".nii.gz", ".hdr", ".mgz", ".mgh")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".jp2")

SUFFIXES = (*_DICOM, *_VOLUMES, *_IMAGES)
"""Suffixes of the files that a folder is searched for; DICOM files under other names are found too, by their mark."""

# Names under which programs write a file until it is complete.
_UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download")

_ONE_PICTURE = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")  # PNG, JPEG, BMP: without preamble and pages

_KEPT = 100
_SHOWN = 5
_WORKERS = 8


class BadFiles:
    """Handling of files that cannot be read, with a list of the files left out.

    Args:
        on_error: ``raise`` (default) stops at the first one, ``skip`` leaves it out and lists it.

    Attributes:
        left_out: Files that were left out, with the reasons, in the order of their discovery.

    Raises:
        ValueError: If ``on_error`` is another value.
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise") -> None:
        if on_error not in {"raise", "skip"}:
            msg = f"on_error must be raise or skip, got {on_error!r}"
            raise ValueError(msg)
        self.on_error = on_error
        self.left_out: dict[Path, str] = {}

    def note(self, error: UnreadableImageError) -> None:
        """Add a file that is left out, or raise its error.

        Args:
            error: The error.

        Raises:
            UnreadableImageError: If ``on_error`` is raise, or the error has no file.
        """
        if self.on_error == "raise" or error.path is None:
            raise error
        self.left_out.setdefault(error.path, error.reason)

    def report(self) -> str:
        """List the files that were left out.

        Returns:
            One line per file, at most 100; "" if there are none.
        """
        if not self.left_out:
            return ""
        lines = [f"  {path}: {reason}" for path, reason in list(self.left_out.items())[:_KEPT]]
        more = [f"  and {len(self.left_out) - _KEPT} more"] if len(self.left_out) > _KEPT else []
        return "\n".join([f"{len(self.left_out)} files were left out:", *lines, *more])


def list_files(path: str | Path) -> list[Path]:
    """List the files of a folder and its subfolders that may have pictures.

    Args:
        path: A folder, or one file, with any suffix.

    Returns:
        Sorted by path. Hidden files and DICOMDIR are left out.

    Raises:
        FileNotFoundError: If there is no such path.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        msg = f"there is no file or folder {str(path)!r}"
        raise FileNotFoundError(msg)
    return sorted(file for file in path.rglob("*") if not file.name.startswith(".") and may_hold_pictures(file))


def may_hold_pictures(path: Path) -> bool:
    """Whether a file of a folder may have pictures: by a suffix of ``SUFFIXES``, otherwise by DICOM's mark.

    Many DICOM files have no suffix, or a part of an identifier or a number in its place (``1.2.840.113619.2.55.3``,
    ``IM.0001``).

    Args:
        path: The file.

    Returns:
        False for other files, DICOMDIR, names of unfinished files such as ``a.dcm.part``, folders and pipes.
    """
    name = path.name.lower()
    if name == "dicomdir" or name.endswith(_UNFINISHED):
        return False
    try:
        return path.is_file() and (name.endswith(SUFFIXES) or _is_dicom(path))  # to open a pipe would wait
    except OSError:
        return False


def list_pictures(path: str | Path, options: VolumeOptions | None = None) -> list[PictureInfo]:
    """List the pictures of one file from its headers; a volume is read to find its empty slices.

    Args:
        path: The file.
        options: Slices to take from a volume; the defaults if None.

    Returns:
        One entry per picture.

    Raises:
        UnreadableImageError: If the file cannot be read.
    """
    path = Path(path)
    with reading(path):
        if is_volume(path):
            return volumes.list_slices(path, options or VolumeOptions())
        if _taken_for_dicom(path):
            return dicom.list_frames(path)
        return pillow.list_images(path)


def read_picture(info: PictureInfo, options: VolumeOptions | None = None) -> Picture:
    """Read one picture.

    Args:
        info: An entry of ``list_pictures``.
        options: The options of that ``list_pictures`` call. Default: ``VolumeOptions()``.

    Returns:
        The picture.

    Raises:
        UnreadableImageError: If it cannot be read, has no pixels, has NaN or infinite pixels, or all its pixels are
            equal.
    """
    return check_pixels(read_unchecked(info, options))


def read_unchecked(info: PictureInfo, options: VolumeOptions | None = None) -> Picture:
    """Read one picture without a check of its pixels: a mask may be empty.

    Args:
        info: An entry of ``list_pictures``.
        options: The options of that ``list_pictures`` call. Default: ``VolumeOptions()``.

    Returns:
        The picture.

    Raises:
        UnreadableImageError: If it cannot be read.
    """
    with reading(info.path):
        if is_volume(info.path):
            return volumes.read_slice(info, (options or VolumeOptions()).plane)
        if _taken_for_dicom(info.path):
            return dicom.read_frame(info)
        return pillow.read_image(info)


def pictures_of(path: str | Path, options: VolumeOptions | None = None) -> Iterator[tuple[Picture, int]]:
    """Read the pictures of one file, one after the other; a file with one picture is parsed once.

    Args:
        path: The file.
        options: Which slices of a volume are taken.

    Yields:
        Picture, and the number of pictures of the file.

    Raises:
        UnreadableImageError: If one of them cannot be read: see :func:`read_picture`.
    """
    path = Path(path)
    with reading(path):
        picture = pillow.read_single(path) if _holds_one_picture(path) else None
    if picture is not None:
        yield check_pixels(picture), 1
        return
    infos = list_pictures(path, options)
    for info in infos:
        yield read_picture(info, options), len(infos)


def has_geometry(path: Path) -> bool:
    """Whether a file has an orientation relative to the patient.

    Args:
        path: The file.

    Returns:
        True for volumes and DICOM files.
    """
    return is_volume(path) or _taken_for_dicom(path)


def is_volume(path: Path) -> bool:
    """Whether a file is read as a volume with an affine matrix, by its suffix.

    Args:
        path: The file.

    Returns:
        True for NIfTI and the other formats of ``volumes``.
    """
    return path.name.lower().endswith(_VOLUMES)


def read_pictures(
    paths: Iterable[str | Path],
    options: VolumeOptions | None = None,
    bad_files: BadFiles | None = None,
) -> Iterator[Picture]:
    """Read the pictures of files one after the other.

    Args:
        paths: Files.
        options: Which slices of a volume are taken.
        bad_files: Handling of files that cannot be read; raise if None.

    Yields:
        The pictures.

    Raises:
        UnreadableImageError: If a file cannot be read and is not to be skipped.
    """
    bad_files = bad_files or BadFiles()
    for path in paths:
        try:
            for picture, _ in pictures_of(path, options):
                yield picture
        except UnreadableImageError as error:  # noqa: PERF203 - one bad file of thousands
            bad_files.note(error)


def survey(
    paths: Iterable[str | Path],
    options: VolumeOptions | None = None,
    bad_files: BadFiles | None = None,
) -> list[PictureInfo]:
    """List the pictures of many files, with several threads.

    If bad files are skipped, every picture is decoded once, because only decoding finds damaged pixels. Otherwise only
    headers are read, and one error lists all unreadable files.

    Args:
        paths: Files.
        options: Which slices of a volume are taken.
        bad_files: Handling of files that cannot be read; raise if None.

    Returns:
        The pictures of the readable files, in the order of the files. A bad file is left out completely.

    Raises:
        UnreadableImageError: If files cannot be read and ``on_error`` is raise; the message has their number and the
            first ones.
    """
    bad_files = bad_files or BadFiles()

    def look(path: str | Path) -> list[PictureInfo] | UnreadableImageError:
        try:
            infos = list_pictures(path, options)
            for info in infos if bad_files.on_error == "skip" else ():
                read_picture(info, options)
        except UnreadableImageError as error:
            return error
        return infos

    with ThreadPoolExecutor(_WORKERS) as pool:
        found = list(pool.map(look, paths))
    errors = [result for result in found if isinstance(result, UnreadableImageError)]
    if errors and bad_files.on_error == "raise":
        shown = ", ".join(f"{str(error.path)!r} ({error.reason})" for error in errors[:_SHOWN])
        more = " ..." if len(errors) > _SHOWN else ""
        msg = f"{len(errors)} files cannot be read: {shown}{more}; on_error skip leaves them out"
        raise UnreadableImageError(msg)
    for error in errors:
        bad_files.note(error)
    return [info for result in found if isinstance(result, list) for info in result]


def _taken_for_dicom(path: Path) -> bool:
    return path.name.lower().endswith(_DICOM) or _is_dicom(path)


def _holds_one_picture(path: Path) -> bool:
    """Whether a file is an image of a format without pages, by its content, not its suffix."""
    head = _head(path)
    return head.startswith(_ONE_PICTURE) and not (path.name.lower().endswith((*_VOLUMES, *_DICOM)) or _marked(head))


def _is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark after its preamble."""
    return _marked(_head(path))


def _marked(head: bytes) -> bool:
    return head[128:] == b"DICM"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError:
        return b""
