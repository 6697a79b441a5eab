"""The command ``quality``: detection quality of models x data sets x seeds."""

__all__ = ["load_config", "main"]

import shlex

from jsonargparse import ArgumentParser

from anomalib_scrd.benchmark.quality.config import BenchmarkConfig
from anomalib_scrd.benchmark.quality.runner import run_benchmark


def load_config(arguments: list[str]) -> BenchmarkConfig:
    """Read a benchmark's description.

    Args:
        arguments: Command line, e.g. ``["--config", "configs/benchmark/baselines.yaml", "--seeds", "[0, 1, 2]"]``.

    Returns:
        The description, checked.

    Raises:
        SystemExit: If an argument is unknown or out of range; the message is on standard error.
    """
    parser = ArgumentParser(prog="python -m anomalib_scrd.benchmark", description=__doc__)
    parser.add_argument("--config", action="config", help="YAML file with the arguments below")
    parser.add_class_arguments(BenchmarkConfig)
    values = parser.instantiate_classes(parser.parse_args(arguments))
    values.pop("config")
    try:
        return BenchmarkConfig(**values)
    except ValueError as error:
        parser.error(str(error))
        raise


def main(arguments: list[str]) -> int:
    """Run a benchmark.

    Args:
        arguments: Command line.

    Returns:
        0 if every run succeeded, 1 if one failed (the table is written all the same).
    """
    config = load_config(arguments)
    command = shlex.join(["python", "-m", "anomalib_scrd.benchmark", *arguments])
    results = run_benchmark(config, command=command)
    return 0 if all(result["status"] == "ok" for result in results) else 1
