"""Command line: ``python -m anomalib_scrd.benchmark [quality | speed] --config FILE``.

The first word names what is measured; without one it is ``quality``. A command is a module with a function
``main(arguments) -> exit status``, loaded only when it is asked for.
"""

__all__ = ["COMMANDS", "main"]

import sys
from importlib import import_module

COMMANDS = {"quality": "anomalib_scrd.benchmark.quality.command", "speed": "anomalib_scrd.benchmark.speed.command"}
_DEFAULT = "quality"


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command line without the program's name, by default this process's.

    Returns:
        Exit status: 0 if all went well.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = _DEFAULT
    if words and not words[0].startswith("-"):
        name = words.pop(0)
    if name not in COMMANDS:
        print(f"unknown command {name!r}; there are: {', '.join(sorted(COMMANDS))}", file=sys.stderr)
        return 2
    return import_module(COMMANDS[name]).main(words)


if __name__ == "__main__":
    sys.exit(main())
