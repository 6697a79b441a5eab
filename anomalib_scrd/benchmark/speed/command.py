"""The command ``speed``: what steps and predictions cost, beside what they must cost."""

__all__ = ["load_config", "main", "run_speed"]

import logging
import shlex
import traceback
from importlib import import_module

from jsonargparse import ArgumentParser

from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.machine import describe
from anomalib_scrd.benchmark.speed.report import Report, section_lines, write_report


def load_config(arguments: list[str]) -> SpeedConfig:
    """Read what is to be measured.

    Args:
        arguments: Command line, e.g. ``["--config", "configs/benchmark/speed.yaml", "--batch", "16"]``.

    Returns:
        The description, checked.

    Raises:
        SystemExit: If an argument is unknown or out of range; the message is on standard error.
    """
    parser = ArgumentParser(prog="python -m anomalib_scrd.benchmark speed", description=__doc__)
    parser.add_argument("--config", action="config", help="YAML file with the arguments below")
    parser.add_class_arguments(SpeedConfig)
    values = parser.instantiate_classes(parser.parse_args(arguments))
    values.pop("config")
    try:
        return SpeedConfig(**values)
    except ValueError as error:
        parser.error(str(error))
        raise


def run_speed(config: SpeedConfig, command: str = "") -> Report:
    """Measure section by section; what is finished is on disk before the next one begins.

    Args:
        config: What to measure.
        command: Command line that started it.

    Returns:
        The results. A section that failed is recorded with its error.
    """
    for name in ("lightning.pytorch", "pytorch_lightning", "nncf"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config.use_threads()
    report = Report(config, command, describe(config))
    print("\n".join(report.head()), flush=True)
    for name in config.sections:
        try:
            module = "prediction" if name == "inference" else name
            report.sections[name] = import_module(f"anomalib_scrd.benchmark.speed.{module}").measure(config)
        except Exception as error:  # noqa: BLE001  (one section that fails leaves the others)
            traceback.print_exc()
            report.failed[name] = f"{type(error).__name__}: {error}"
        files = write_report(report)
        print("\n".join(section_lines(name, report)), flush=True)
    print(f"wrote {', '.join(map(str, files))}")
    return report


def main(arguments: list[str]) -> int:
    """Measure.

    Args:
        arguments: Command line.

    Returns:
        0 if every section was measured, 1 if one failed. A contender that is missing fails nothing: the report says
        why it is.
    """
    command = shlex.join(["python", "-m", "anomalib_scrd.benchmark", "speed", *arguments])
    return 1 if run_speed(load_config(arguments), command).failed else 0
