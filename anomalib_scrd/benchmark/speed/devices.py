"""Section ``devices``: several processes against one with the joint batch."""

__all__ = ["measure"]

import json
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.contenders import FORMS, build_form
from anomalib_scrd.benchmark.speed.section import Panel, Section, Table, interval, number, spread
from anomalib_scrd.benchmark.speed.timing import Samples, alternate, device_clock, ratio, summary
from anomalib_scrd.benchmark.speed.training_step import TrainingStep, random_images

_PATIENCE = timedelta(minutes=20)
_ALONE = "one process"


def measure(config: SpeedConfig) -> Section:
    """Time a step of several processes and a step of one with the joint batch in turn.

    Args:
        config: What to measure. On a CPU the processes share its threads, on GPUs each has one of its own.

    Returns:
        Times and efficiency.

    Raises:
        RuntimeError: If there are fewer GPUs than processes.
    """
    section = Section()
    on_gpu = config.torch_device.type == "cuda"
    if on_gpu and torch.cuda.device_count() < config.processes:
        msg = f"processes is {config.processes}, but there are {torch.cuda.device_count()} GPUs"
        raise RuntimeError(msg)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="anomalib-scrd-") as scratch:
        mp.spawn(_work, (config, threads, Path(scratch)), nprocs=config.processes)  # type: ignore[no-untyped-call]
        found = json.loads((Path(scratch) / "samples.json").read_text(encoding="utf-8"))
    seconds = section.take("devices", Samples(**found))
    together = f"{config.processes} processes"
    joint = config.batch * config.processes
    rows = [[name, joint, spread(summary(v), 1e3), number(joint / summary(v).median)] for name, v in seconds.items()]
    section.tables.append(Table("Several processes", ["", "images", "ms per step (quartiles)", "images/s"], rows))
    if {_ALONE, together} <= seconds.keys():
        # GPUs add up; on a CPU the same cores do the work in both cases
        gain = ratio(seconds[_ALONE], seconds[together]).scaled(1 / config.processes if on_gpu else 1)
        section.notes.append(f"Efficiency of {together}: {interval(gain)}.")
    section.notes.append(
        f"The same {joint} images in one process, and {config.batch} in each of {config.processes} with gradients "
        f"averaged by DistributedDataParallel ({'nccl, one GPU each' if on_gpu else 'gloo, sharing the threads'})."
    )
    section.panels.append(Panel("step of all images, ms", {n: summary(v).scaled(1e3) for n, v in seconds.items()}))
    return section


class _Step(nn.Module):
    """Makes a training step the forward pass that DistributedDataParallel wraps."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Any:
        return self.module.training_step(batch)


def _work(rank: int, config: SpeedConfig, threads: int, scratch: Path) -> None:
    """Body of a process; the first one also makes the step with the joint batch, while the others wait."""
    on_gpu = config.torch_device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
        config.device = f"cuda:{rank}"
    share = max(1, threads // config.processes)
    torch.set_num_threads(threads)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{scratch / 'meeting'}",
        rank=rank,
        world_size=config.processes,
        timeout=_PATIENCE,
    )
    contenders: dict[str, Callable[[], Callable[[], Any]]] = {_ALONE: lambda: lambda: None}
    if rank == 0:
        joint = random_images(config, config.batch * config.processes, config.image_size)
        contenders[_ALONE] = lambda: TrainingStep(build_form(config, FORMS["default"]), config, images=joint)
    contenders[f"{config.processes} processes"] = lambda: _together(rank, config, threads, share)
    samples = alternate(contenders, rounds=config.rounds, warmup=config.warmup, clock=device_clock(config.torch_device))
    if rank == 0:
        text = json.dumps({"seconds": samples.seconds, "errors": samples.errors})
        (scratch / "samples.json").write_text(text, encoding="utf-8")
    dist.destroy_process_group()


def _together(rank: int, config: SpeedConfig, threads: int, share: int) -> Callable[[], None]:
    def wrap(module: Any) -> Any:
        devices = [rank] if config.torch_device.type == "cuda" else None
        return DistributedDataParallel(_Step(module), device_ids=devices)

    step = TrainingStep(build_form(config, FORMS["default"]), config, rank=rank, wrap=wrap)

    def run() -> None:
        dist.barrier()
        torch.set_num_threads(share)
        step()
        torch.set_num_threads(threads)
        dist.barrier()

    return run
