"""Command line: ``python -m anomalib_scrd.edge [run] MODEL IMAGES --output FOLDER``, and further commands.

The first word is the command; the default is ``run``. A command is a module with a function
``main(words) -> exit status``, which is imported only when it is used.
"""

__all__ = ["COMMANDS", "main"]

import logging
import sys
import warnings
from importlib import import_module

COMMANDS = {
    "run": "anomalib_scrd.edge.run",
    "report": "anomalib_scrd.edge.report.command",
    "gallery": "anomalib_scrd.edge.gallery.command",
    "names": "anomalib_scrd.edge.names_command",
}
_DEFAULT = "run"
_HELP = """usage: python -m anomalib_scrd.edge [COMMAND] MODEL IMAGES --output FOLDER ...

Scores images with an exported model, without torch and anomalib.

commands, each with --help:
  run      score a folder, or watch one (the default command)
  report   score a folder, and write one HTML report about the export
  gallery  score a folder, and write pages of its pictures, sorted by score
  names    print the file that belongs to each hashed name"""
_CANNOT_START, _CANNOT_WRITE = 2, 4


def main(words: list[str] | None = None) -> int:
    """Run a command.

    Args:
        words: Arguments of the command line; by default those of this process.

    Returns:
        Exit status, see :mod:`anomalib_scrd.edge.run`.
    """
    words = list(sys.argv[1:] if words is None else words)
    if words[:1] in (["--help"], ["-h"]):
        print(_HELP)
        return 0
    name = words.pop(0) if words and words[0] in COMMANDS else _DEFAULT
    # Warnings of image readers may quote a patient's data from the headers.
    warnings.simplefilter("ignore")
    for library in ("pydicom", "nibabel", "tifffile", "PIL"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    try:
        return int(import_module(COMMANDS[name]).main(words))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _CANNOT_START
    except OSError as error:
        print(f"error: results cannot be written: {error}", file=sys.stderr)
        return _CANNOT_WRITE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
