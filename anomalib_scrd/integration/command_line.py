"""What the user of anomalib's command line sees of an error."""

__all__ = ["plain_errors"]

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_errors() -> Iterator[None]:
    """End with the message of an error, and nothing else, where anomalib's command line builds an object.

    jsonargparse would say there that a type does not fit, with a traceback before and all arguments behind it, and the
    reason somewhere between. Elsewhere nothing changes.

    Raises:
        SystemExit: In place of an error, on the command line.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if not _built_by_command_line():
            raise
        msg = f"anomalib: error: {error}"
        raise SystemExit(msg) from error


def _built_by_command_line() -> bool:
    """Whether anomalib's command line is among the callers, and at building objects: its pipelines take errors."""
    module = sys.modules.get("anomalib.cli.cli")
    if module is None:
        return False
    code = module.AnomalibCLI.instantiate_classes.__code__
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
