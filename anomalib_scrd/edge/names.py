"""Names of files and patients in outputs: relative paths, or pseudonyms with a salt that the user keeps."""

__all__ = ["Names"]

import os
from pathlib import Path, PurePosixPath

from anomalib_scrd.imaging import PictureInfo, Pseudonyms


class Names:
    """Maps relative paths to the names in outputs and messages.

    Args:
        salt_file: See :class:`anomalib_scrd.imaging.Pseudonyms`; None keeps the paths.

    Raises:
        ValueError: If the file is empty.
    """

    def __init__(self, salt_file: Path | None = None) -> None:
        self._pseudonyms = None if salt_file is None else Pseudonyms(salt_file)

    @property
    def check(self) -> str:
        """Hash that distinguishes salts without revealing them; "" without a salt."""
        return "" if self._pseudonyms is None else self._pseudonyms.of("anomalib_scrd")

    def __call__(self, relative: PurePosixPath) -> str:
        """Name of a file.

        Args:
            relative: Its path below the folder of images.

        Returns:
            The path with slashes, or 16 hexadecimal digits.
        """
        if self._pseudonyms is None:
            return str(relative)
        return self._pseudonyms.of(os.fsencode(str(relative)).hex())  # a name may have any bytes

    def place(self, path: str) -> str:
        """Name of the folder of images.

        Args:
            path: Its absolute path.

        Returns:
            16 hexadecimal digits; "" without a salt.
        """
        return "" if self._pseudonyms is None else self._pseudonyms.of(os.fsencode(path).hex())

    def patient(self, info: PictureInfo) -> str | None:
        """Name of a picture's patient.

        Args:
            info: The picture.

        Returns:
            The pseudonym that ``MedicalFolder`` gives with the same salt; None without a salt or a patient.
        """
        return None if self._pseudonyms is None else self._pseudonyms.of(info.patient) or None

    def volume(self, info: PictureInfo, name: str) -> str | None:
        """Name of the volume that a picture belongs to.

        Args:
            info: The picture.
            name: Name of its file.

        Returns:
            The file's name if it has several pictures, otherwise the pseudonym of its series; None without one.
        """
        if info.count > 1:
            return name
        return None if self._pseudonyms is None else self._pseudonyms.of(info.volume) or None
