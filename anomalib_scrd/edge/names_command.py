"""The command ``names``: prints the hashed name and the path of each file, for users with the salt."""

__all__ = ["main"]

import argparse
import sys
from pathlib import Path

from anomalib_scrd.edge.names import Names
from anomalib_scrd.edge.sources import walk


def main(words: list[str]) -> int:
    """Run the command.

    Args:
        words: Arguments after the command's name.

    Returns:
        Exit status.

    Raises:
        ValueError: If there is no such salt file.
        FileNotFoundError: If there are no such images.
    """
    parser = argparse.ArgumentParser(
        prog="python -m anomalib_scrd.edge names", description="Print the hash and the path of each file."
    )
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder of images, or one file")
    parser.add_argument("--salt", type=Path, required=True, metavar="FILE", help="the salt of the run")
    arguments = parser.parse_args(words)
    if not arguments.salt.is_file():
        msg = f"--salt must be the file of a run, got {str(arguments.salt)!r}"
        raise ValueError(msg)
    names = Names(arguments.salt)
    for file in walk(arguments.images):
        # A name may have bytes or characters that the output's encoding lacks.
        encoding = sys.stdout.encoding or "utf-8"
        path = str(file.relative).encode(encoding, "backslashreplace").decode(encoding)
        print(f"{names(file.relative)}\t{path}")
    return 0
