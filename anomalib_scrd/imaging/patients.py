"""Pseudonyms of patients: identifiers are written out only hashed, with a salt that the user keeps."""

__all__ = ["Pseudonyms"]

import hmac
import os
import secrets
from pathlib import Path

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
    """

    def __init__(self, salt_file: str | Path | None = None) -> None:
        if salt_file is None:
            # The processes of a distributed run must agree.
            self._salt = os.environ.setdefault(_SHARED, secrets.token_hex(_SALT_BYTES)).encode()
            return
        path = Path(salt_file)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(_SALT_BYTES) + "\n", encoding="ascii")
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
