"""Identity of a folder of results, so that results of two models or settings are never mixed in one folder."""

__all__ = ["identity_of"]

import argparse
import hashlib
from pathlib import Path
from typing import Any

from anomalib_scrd.edge.names import Names

_FORMAT = 1


def identity_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Collect the model and the settings that determine the scores.

    Args:
        arguments: Parsed arguments of a command that scores.

    Returns:
        Plain values for JSON.
    """
    return {
        "format": _FORMAT,
        "model": _hash(arguments.model),
        "engine": arguments.engine,
        "precision": arguments.precision,
        "device": arguments.device,
        "threshold": arguments.threshold,
        "salt": Names(arguments.salt).check,
    }


def _hash(model: Path) -> str:
    """SHA-256 of the model's file and the file with its weights."""
    digest = hashlib.sha256()
    for path in (model, model.with_suffix(".bin") if model.suffix == ".xml" else model.with_name(f"{model.name}.data")):
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
