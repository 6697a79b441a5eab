"""Messages at the start and the end of a run, and removal of the files of a failed run."""

__all__ = ["RunReport", "next_command"]

import inspect
import json
import logging
import math
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_scrd.presets import PRESETS
from anomalib_scrd.training.console import say
from anomalib_scrd.training.modes import evaluation_mode

logger = logging.getLogger(__name__)

_FIRST = 3  # batches before the clock starts, which include start-up costs
_TIMED = 10
_WORTH_AN_ESTIMATE = 10.0  # seconds
_VERSION = re.compile(r"v\d+")
_COMPONENTS = {"pre_processor", "post_processor", "evaluator", "visualizer"}


class RunReport(Callback):
    """Estimates how long a fit will take, and reports its checkpoint, its thresholds and the next command.

    After an interrupt (Ctrl-C) the state of the fit is written to the checkpoint folder, as ``interrupted.ckpt`` with
    thresholds of its own, and its path is reported. After a failure before the first step, the folder that anomalib
    made for the results of this run is removed if it is empty, and ``latest`` points to the previous run again.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        del trainer, pl_module
        self._batches = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock at the fourth batch, and estimate the duration after ten more."""
        del batch, batch_idx
        if self._batches == _FIRST:
            self._start = time.monotonic()
        elif self._batches == _FIRST + _TIMED:
            seconds = (time.monotonic() - self._start) / _TIMED
            left = _batches_left(trainer)
            if trainer.is_global_zero and left is not None and left * seconds >= _WORTH_AN_ESTIMATE:
                about = timedelta(seconds=round(left * seconds))
                most = "at most " if getattr(getattr(pl_module, "own_length", None), "cycles", ()) else ""
                say(f"time: {most}about {about} for {left} more batches, {seconds:.2g} s each")
        self._batches += 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the checkpoint, the thresholds and the next command."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = _checkpoint(trainer)
        if path:
            say(f"checkpoint: {path}")
        describe = getattr(getattr(pl_module, "post_processor", None), "describe", None)
        if describe is not None:
            say(f"threshold: {describe()}")
        if path:
            say(f"next: {next_command(pl_module, path)}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state of an interrupted fit, and remove the empty folder of a failed one."""
        if isinstance(exception, KeyboardInterrupt):
            if trainer.state.fn == TrainerFn.FITTING:
                _save_interrupted(trainer, pl_module)
        elif trainer.is_global_zero and trainer.global_step == 0:
            remove_empty_version(Path(trainer.default_root_dir))


def next_command(model: Any, checkpoint: str) -> str:
    """The command that predicts with a checkpoint.

    Args:
        model: Model of the checkpoint.
        checkpoint: Its path.

    Returns:
        A command line, with the arguments in which the model differs from its preset. The checkpoint holds the
        teacher's weights, so the command does not load pretrained ones.
    """
    parameters = inspect.signature(type(model).__init__).parameters
    preset = PRESETS.get(model.hparams.get("preset", ""))
    words = ["anomalib", "predict", "--model", type(model).__name__]
    for name, value in model.hparams.items():
        if name in _COMPONENTS or name not in parameters or name == "pre_trained":
            continue
        default = getattr(preset, name, parameters[name].default)
        for flag, setting in _differences(f"--model.{name}", _plain(value), _plain(default)):
            words += [flag, setting if isinstance(setting, str) else json.dumps(setting)]
    if "pre_trained" in parameters:
        words += ["--model.pre_trained", "false"]
    words += ["--ckpt_path", checkpoint, "--data"]
    return f"{shlex.join(words)} FOLDER_OF_IMAGES"


def remove_empty_version(folder: Path) -> None:
    """Remove a results folder that contains only a copy of the settings, and correct ``latest``.

    Args:
        folder: Folder that anomalib made for one run, ``v0``, ``v1``, ...; other folders are not touched.
    """
    latest = folder.parent / "latest"
    if not _VERSION.fullmatch(folder.name) or not latest.is_symlink() or latest.resolve() != folder.resolve():
        return
    if any(path.is_file() and path.name != "config.yaml" for path in folder.rglob("*")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    latest.unlink()
    others = [path for path in folder.parent.iterdir() if path.is_dir() and _VERSION.fullmatch(path.name)]
    if others:
        latest.symlink_to(max(others, key=lambda path: int(path.name[1:])), target_is_directory=True)


def _save_interrupted(trainer: Trainer, model: Any) -> None:
    """Write the state of an interrupted fit."""
    step, written = trainer.global_step, _checkpoint(trainer)
    earlier = f"the last checkpoint is {written}" if written else "there is no checkpoint"
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)
    if trainer.world_size > 1 or not folder or not step:  # processes may be at different steps
        say(f"interrupted after {step} steps; {earlier}")
        return
    path = Path(str(folder)) / "interrupted.ckpt"
    try:
        with evaluation_mode(model), torch.no_grad():
            model.before_thresholds()
            find = getattr(model.post_processor, "fit_to_held_out", None)
            if find is not None:
                find(trainer, model)
        trainer.save_checkpoint(path)
    except Exception as error:  # noqa: BLE001 - the interrupt must go on
        say(f"interrupted after {step} steps; this state could not be written ({error}); {earlier}")
    else:
        say(f"interrupted after {step} steps; checkpoint: {path} (continue with --ckpt_path)")


def _checkpoint(trainer: Trainer) -> str:
    return str(getattr(trainer.checkpoint_callback, "best_model_path", "") or "")


def _batches_left(trainer: Trainer) -> int | None:
    """Batches until the end of a fit, None if it is unknown."""
    done = trainer.fit_loop.total_batch_idx + 1
    left = []
    if trainer.max_steps > 0:
        left.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
    if trainer.max_epochs is not None and trainer.max_epochs > 0 and math.isfinite(trainer.num_training_batches):
        left.append(int(trainer.max_epochs * trainer.num_training_batches) - done)
    return min(left, default=None)


def _differences(flag: str, value: Any, default: Any) -> Iterator[tuple[str, Any]]:
    """Settings that differ from the default; the fields of a group one by one."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _differences(f"{flag}.{name}", part, default.get(name) if isinstance(default, Mapping) else None)
    elif value != default:
        yield flag, value


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
