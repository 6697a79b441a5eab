"""Measures section by section; the results of each are written before the next one begins."""

__all__ = ["run_speed"]

import logging
import os
import traceback
from datetime import datetime, timezone
from importlib import import_module

import torch

from anomalib_scrd.benchmark.machine import describe, resolve_device
from anomalib_scrd.benchmark.speed.config import SECTIONS, SpeedConfig
from anomalib_scrd.benchmark.speed.report import Section, write_report
from anomalib_scrd.benchmark.speed.timing import reason


def run_speed(config: SpeedConfig, command: str = "") -> bool:
    """Run all measurements, and write the report with the command line on top.

    Returns:
        Whether every section was measured. A missing contender is not a failure: the report gives the reason.
    """
    for name in ("lightning.pytorch", "pytorch_lightning", "nncf"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    head = _head(config, command)
    print("\n".join(head), flush=True)
    sections: dict[str, Section] = {}
    failed = False
    for name in (name for name in SECTIONS if getattr(config, name)):
        try:
            sections[name] = import_module(f"anomalib_scrd.benchmark.speed.{name}").measure(config)
        except Exception as error:  # noqa: BLE001  (a failed section must not end the others)
            traceback.print_exc()
            failed = True
            sections[name] = Section(errors={f"FAILED, the complete section {name}": reason(error)})
        write_report(config.output, head, sections)
        print("\n".join([f"## {name}", "", *sections[name].lines()]), flush=True)
    print(f"wrote {config.output / 'speed.md'}")
    return not failed


def _head(config: SpeedConfig, command: str) -> list[str]:
    """Markdown lines on top: command, settings, machine."""
    machine = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    machine |= {name: str(value) for name, value in describe(resolve_device(config.device)).items()}
    machine["float32 products"] = torch.get_float32_matmul_precision()
    if hasattr(os, "getloadavg"):
        machine["load average at the start"] = f"{os.getloadavg()[0]:.2f}"  # shows a busy machine
    text = (
        f"{config.rounds} rounds after {config.warmup} untimed ones, seed {config.seed}. Times are medians with "
        "quartiles in round brackets. "
        "Contenders run in turn, each round in another order; ratios are medians of the ratios round by round, with a "
        "95 % interval in square brackets if there are enough rounds."
    )
    settings = "; ".join(f"{name} {value}" for name, value in machine.items())
    return ["# Speed", "", "```", command, "```", "", text, "", f"Machine: {settings}.", ""]
