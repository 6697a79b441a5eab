"""Pseudonyms of patients: identifiers are written only as hashes, with a salt that the user keeps."""

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

    Equal salts give equal pseudonyms. Without the salt, identifiers cannot be guessed; with the salt and a list of
    identifiers, pseudonyms can be resolved.

    Args:
        salt_file: File with the salt; it is created, readable by its owner only, if it does not exist. None draws a
            salt for this process and its child processes.

    Raises:
        ValueError: If the file is empty.
        OSError: If the file cannot be written; no file is left then.
    """

    def __init__(self, salt_file: str | Path | None = None) -> None:
        if salt_file is None:
            # The processes of a distributed run need the same salt.
            if not os.environ.get(_SHARED, "").strip():
                os.environ[_SHARED] = secrets.token_hex(_SALT_BYTES)
            self._salt = os.fsencode(os.environ[_SHARED])
            return
        path = Path(salt_file)
        if not path.exists():
            _make_salt(path)
        self._salt = path.read_bytes().strip()
        if not self._salt:
            msg = f"the salt file {str(path)!r} is empty: give a file with random text, or the path of a new file"
            raise ValueError(msg)

    def of(self, identifier: str) -> str:
        """Look up a pseudonym.

        Args:
            identifier: Identifier of a patient, series or volume; as a file's name it may have any bytes.

        Returns:
            16 hexadecimal digits of a keyed SHA-256; "" for an empty identifier.
        """
        if not identifier.strip():
            return ""
        # A path may have bytes that are no text; they are surrogates.
        return hmac.new(self._salt, identifier.strip().encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:_DIGITS]


def _make_salt(path: Path) -> None:
    """Write a file with a new salt, atomically; if another process writes it first, its salt is kept."""
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
