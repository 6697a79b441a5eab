"""Console output of a run."""

__all__ = ["say", "tidy"]

import logging
import sys
import warnings

from rich.logging import RichHandler

logger = logging.getLogger("anomalib_scrd")

# Warnings of Lightning and torchmetrics about intended behaviour, or that users of this model cannot act on.
_KNOWN_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode at the start of training",  # the teacher
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"The ``compute`` method of metric \w+ was called before the ``update`` method",  # pixels without masks
    r"No (positive|negative) samples in targets",
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"The dirpath has changed from ",  # a prediction writes no checkpoint
)
# Log messages of Lightning that advertise, or that report callbacks replaced by their own kind.
_KNOWN_LINES = ("litlogger", "litmodels", "configure_callbacks` will override")
# The logger of these lines depends on the order of imports: both names of Lightning may be installed.
_LIGHTNING = tuple(
    f"{package}.utilities.rank_zero"
    for package in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
)
# torch warns for every loader; one warning is enough.
_ONCE = "This DataLoader will create"

_on_command_line = False


class _DropKnownLines(logging.Filter):
    """Drops the known messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(known in message for known in _KNOWN_LINES)


_DROP_KNOWN_LINES = _DropKnownLines()


def tidy() -> None:
    """Drop messages that a user cannot act on and, on anomalib's command line, the second copy of every line.

    anomalib's command line logs with two handlers at once. On a terminal the handler of ``rich`` is kept, elsewhere the
    plain one, which does not wrap paths. A second call has no effect.
    """
    global _on_command_line  # noqa: PLW0603 - set once per process
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("once", message=_ONCE)
    for name in _LIGHTNING:
        logging.getLogger(name).addFilter(_DROP_KNOWN_LINES)
    if "anomalib.cli.cli" not in sys.modules:
        return
    root = logging.getLogger()
    rich = [handler for handler in root.handlers if isinstance(handler, RichHandler)]
    plain = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    if rich and plain:
        _on_command_line = True
        for handler in plain if sys.stdout.isatty() else rich:
            root.removeHandler(handler)


def say(line: str) -> None:
    """Report a result: on anomalib's command line as a plain line, which no handler wraps; otherwise by logging.

    Args:
        line: The text.
    """
    if _on_command_line:
        print(line, flush=True)  # noqa: T201
    else:
        logger.info("%s", line)
