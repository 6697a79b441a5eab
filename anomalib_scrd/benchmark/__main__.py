"""Command line: ``python -m anomalib_scrd.benchmark [quality | speed]``; the default is quality."""

__all__ = ["load_config", "main", "parsed"]

import shlex
import sys
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

_PACKAGE = "anomalib_scrd.benchmark"
# class of the configuration, and function (configuration, command) -> success
_COMMANDS = {
    "quality": ("BenchmarkConfig", "run_benchmark"),
    "speed": ("SpeedConfig", "run_speed"),
}


def load_config(name: str, arguments: list[str]) -> Any:
    """Parse the command line of a command, ``quality`` or ``speed``, to its checked configuration.

    Raises:
        SystemExit: If an argument is unknown or out of range; the message is on standard error.
    """
    config_class = getattr(import_module(f"{_PACKAGE}.{name}.config"), _COMMANDS[name][0])
    return parsed(config_class, f"python -m {_PACKAGE} {name}", arguments)


def parsed(config_class: type, program: str, arguments: list[str]) -> Any:
    """Parse a command line to a configuration.

    Raises:
        SystemExit: If an argument is unknown or out of range; the message is on standard error.
    """
    parser = ArgumentParser(prog=program)
    parser.add_argument("--config", action="config", help="YAML file with the arguments below; may be given repeatedly")
    parser.add_class_arguments(config_class)
    values = parser.instantiate_classes(parser.parse_args(arguments))
    values.pop("config")
    try:
        return config_class(**values)
    except ValueError as error:
        parser.error(str(error))
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run a command; by default with the arguments of this process.

    Returns:
        Exit status: 0 for success, 1 if a part failed (the report names it), 2 for a wrong command line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = shlex.join(["python", "-m", _PACKAGE, *words])
    name = words.pop(0) if words and not words[0].startswith("-") else "quality"
    if name not in _COMMANDS:
        print(f"unknown command {name!r}; there are: {', '.join(sorted(_COMMANDS))}", file=sys.stderr)
        return 2
    config = load_config(name, words)
    run = getattr(import_module(f"{_PACKAGE}.{name}.runner"), _COMMANDS[name][1])
    return 0 if run(config, command=command) else 1


if __name__ == "__main__":
    sys.exit(main())
