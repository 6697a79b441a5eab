"""Identity of a folder of results, so that results of two models, settings or folders of images are never mixed."""

__all__ = ["identity_of"]

import argparse
import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

from anomalib_scrd.edge.journal import known_identity
from anomalib_scrd.edge.names import Names

_FORMAT = 1
_KEY_BYTES = 16
_ROUNDS = 100_000  # some hundredths of a second


def identity_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Collect the model, the settings that determine the scores, and a hash of the place of the images.

    Args:
        arguments: Parsed arguments of a command that scores.

    Returns:
        Plain values for JSON.
    """
    names = Names(arguments.salt)
    return {
        "format": _FORMAT,
        "model": _hash(arguments.model),
        "engine": arguments.engine,
        "precision": arguments.precision,
        "device": arguments.device,
        "threshold": arguments.threshold,
        "salt": names.check,
        "images": _place(arguments.images, names, arguments.output),
    }


def _place(images: Path, names: Names, output: Path) -> str:
    """Hash of the folder to which the paths in the results are relative; its path may have a patient's name.

    With a salt, the hash is a pseudonym, which tells nothing without the salt. Without one, results have names of files
    anyway, and the hash only keeps the path from being read, looked up in a table or compared with another folder's: it
    has a key of its own per folder of results, and is slow. Who has a list of possible paths can still try them.
    """
    folder = images if images.is_dir() else images.parent
    path = os.path.normcase(folder.resolve())
    if names.check:
        return names.place(path)
    known = (known_identity(output) or {}).get("images")
    key = known.partition(":")[0] if isinstance(known, str) and ":" in known else secrets.token_hex(_KEY_BYTES)
    return f"{key}:{hashlib.pbkdf2_hmac('sha256', os.fsencode(path), key.encode(), _ROUNDS).hex()}"


def _hash(model: Path) -> str:
    """SHA-256 of the model's file and the file with its weights."""
    digest = hashlib.sha256()
    for path in (model, model.with_suffix(".bin") if model.suffix == ".xml" else model.with_name(f"{model.name}.data")):
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
