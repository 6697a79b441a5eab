"""Names of files in what is written: their relative paths, or hashes of these with a salt that the user keeps."""

__all__ = ["Names"]

import hashlib
import hmac
from pathlib import Path, PurePosixPath

_SHORTEST_SALT = 16
_DIGITS = 20


class Names:
    """Turns relative paths into the names that outputs use.

    Args:
        salt: Secret bytes; None keeps the paths.

    Raises:
        ValueError: If the salt has fewer than 16 bytes.
    """

    def __init__(self, salt: bytes | None = None) -> None:
        if salt is not None and len(salt) < _SHORTEST_SALT:
            msg = f"the salt must have at least {_SHORTEST_SALT} bytes, got {len(salt)}"
            raise ValueError(msg)
        self._salt = salt

    @classmethod
    def from_file(cls, path: Path | None) -> "Names":
        """Read the salt from a file, which is best made with ``openssl rand -out FILE 32``.

        Args:
            path: The file; None for no salt.

        Returns:
            The names.

        Raises:
            ValueError: If the file cannot be read, or is too short.
        """
        if path is None:
            return cls()
        try:
            return cls(path.read_bytes())
        except OSError as error:
            msg = f"cannot read the salt {str(path)!r}: {error.strerror}"
            raise ValueError(msg) from None

    @property
    def hidden(self) -> bool:
        """Whether names are hashes."""
        return self._salt is not None

    @property
    def check(self) -> str:
        """Tells one salt from another without giving it away; "" without one."""
        return self._hash("anomalib_scrd") if self.hidden else ""

    def __call__(self, relative: PurePosixPath) -> str:
        """Name of a file.

        Args:
            relative: Its path below the folder of images.

        Returns:
            The path with slashes, or 20 hexadecimal digits.
        """
        return self._hash(str(relative)) if self.hidden else str(relative)

    def _hash(self, text: str) -> str:
        digest = hmac.new(self._salt or b"", text.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return digest.hexdigest()[:_DIGITS]
