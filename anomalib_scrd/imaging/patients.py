"""Pseudonyms of patients: identifiers are written out only hashed, with a salt that the user keeps."""

__all__ = ["Pseudonyms"]

import hmac
import os
import secrets
from pathlib import Path

from anomalib_scrd.atomic_files import unwritten

_DIGITS = 16
_SALT_BYTES = 32
_SHARED = "ANOMALIB_SCRD_SALT"


class Pseudonyms:
    """Pseudonyms of patients and volumes: equal for equal identifiers, and without any other information.

    Equal salts give equal pseudonyms. Without the salt identifiers cannot be tried out; a person who has the salt and a
    list of identifiers can find them again.

    Args:
        salt_file: File with the salt; it is made, readable by its owner only, if it does not exist. None draws a salt
            that lives as long as the program, and is shared with its child processes.

    Raises:
        ValueError: If the file is empty.
        OSError: If it cannot be made; there is none then.
    """

    def __init__(self, salt_file: str | Path | None = None) -> None:
        if salt_file is None:
            # The processes of a distributed run must agree.
            self._salt = os.environ.setdefault(_SHARED, secrets.token_hex(_SALT_BYTES)).encode()
            return
        path = Path(salt_file)
        if not path.exists():
            _make_salt(path)
        self._salt = path.read_bytes().strip()
        if not self._salt:
            msg = f"the salt file {str(path)!r} is empty: give one with a random text, or a path where one can be made"
            raise ValueError(msg)

    def of(self, identifier: str) -> str:
        """Look up a pseudonym.

        Args:
            identifier: Identifier of a patient, series or volume.

        Returns:
            16 hexadecimal digits of a keyed SHA-256; "" for an empty identifier.
        """
        if not identifier.strip():
            return ""
        return hmac.new(self._salt, identifier.strip().encode(), "sha256").hexdigest()[:_DIGITS]


def _make_salt(path: Path) -> None:
    """Make a file of a new salt, whole or not at all, unless another process is faster: then its salt counts."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(mode=0o600)
        part.write_text(secrets.token_hex(_SALT_BYTES) + "\n", encoding="ascii")
        try:
            os.link(part, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            part.replace(path)
    except OSError as error:
        raise unwritten(path, "salt file", error) from error
    finally:
        part.unlink(missing_ok=True)
