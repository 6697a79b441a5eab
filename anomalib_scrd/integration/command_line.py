"""Error messages on anomalib's command line."""

__all__ = ["short_errors"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def short_errors() -> Iterator[None]:
    """Exit with only the message of an error while jsonargparse builds an object for a command line.

    Without it jsonargparse reports a wrong type, between a traceback and all arguments. Outside of a command line, also
    in anomalib's pipelines, errors are unchanged.

    Raises:
        SystemExit: In place of an error, on the command line.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        parser = _building_parser()
        if parser is None or not parser.exit_on_error:
            raise
        msg = f"{parser.prog.partition(' ')[0] or 'anomalib'}: error: {error}"
        raise SystemExit(msg) from error


def _building_parser() -> Any:
    """The parser that is building an object, or None; also None if jsonargparse no longer provides it."""
    try:
        from jsonargparse._common import class_instantiators, parent_parser
    except ImportError:
        return None
    return None if class_instantiators.get() is None else parent_parser.get()
