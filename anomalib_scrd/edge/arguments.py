"""Arguments of all commands that score images."""

__all__ = ["add_output_arguments", "add_run_arguments", "load_named_engine"]

import argparse
import math
from pathlib import Path

from anomalib_scrd.edge.engine import ENGINES, Engine, Hint, load_engine
from anomalib_scrd.edge.files import MAP_KINDS


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a run.

    Args:
        parser: The parser of a command.
    """
    parser.add_argument("model", metavar="MODEL", type=Path, help="exported model, .xml or .onnx")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder of images, or one file")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder of results")
    parser.add_argument(
        "--threshold", type=_finite, help="score above which a picture is anomalous; default: the model's"
    )
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), help="for unreadable files; default: stop, with --watch skip"
    )
    parser.add_argument(
        "--salt", type=Path, metavar="FILE", help="hash names of files and patients with this salt; created if missing"
    )
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto", help="auto (default): by the file")
    parser.add_argument(
        "--hint", choices=("throughput", "latency"), help="goal; default: throughput, with --watch latency"
    )
    parser.add_argument("--precision", choices=("f32", "bf16", "f16"), default="f32", help="of OpenVINO; default: f32")
    parser.add_argument("--device", default="CPU", help="OpenVINO's device; default: CPU")
    parser.add_argument("--threads", type=_positive, help="number of threads; default: one per core")
    parser.add_argument("--quiet", action="store_true", help="report failures only")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for maps and overlays.

    Args:
        parser: The parser of a command.
    """
    parser.add_argument("--maps", choices=MAP_KINDS, help="also write anomaly maps, float32, at the size of the files")
    parser.add_argument("--overlays", action="store_true", help="also write pictures with their maps, as JPEG")


def load_named_engine(arguments: argparse.Namespace, hint: Hint, *, maps: bool) -> Engine:
    """Load the engine that a command line names.

    Args:
        arguments: Parsed arguments of :func:`add_run_arguments`.
        hint: Hint to use if the command line has none.
        maps: Whether anomaly maps are needed.

    Returns:
        The engine.

    Raises:
        ValueError: See :func:`~anomalib_scrd.edge.engine.load_engine`.
    """
    return load_engine(
        arguments.model,
        engine=arguments.engine,
        hint=arguments.hint or hint,
        precision=arguments.precision,
        device=arguments.device,
        threads=arguments.threads,
        maps=maps,
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_finite.__name__ = "finite number"  # argparse: "invalid finite number value: 'nan'"
_positive.__name__ = "positive whole number"
