"""Messages and files of a run; its checkpoint files."""

import errno
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import Callback, Trainer
from rich.logging import RichHandler

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.training import checkpoint_files, console, run_report, validation_times
from anomalib_scrd.training.checkpoint_files import AtomicCheckpointIO
from anomalib_scrd.training.run_report import next_command, remove_empty_version
from tests.models import build_engine, build_model, build_quick_model


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(run_report, "say", lines.append)
    return lines


@pytest.fixture
def _interruptible() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning ignores it from an interrupt on


class At(Callback):
    """Raises at a step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step = step
        self.error = error

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise self.error


def test_a_fit_ends_with_one_line_each(tiny_data: Callable, tmp_path: Path, said: list[str]) -> None:
    model, engine = build_model(), build_engine(tmp_path, max_steps=2)
    engine.fit(model, datamodule=tiny_data())
    assert [line.split(":")[0] for line in said] == ["checkpoint", "threshold", "next"]
    assert said[0] == f"checkpoint: {engine.best_model_path}"
    assert said[1] == f"threshold: {model.post_processor.describe()}"
    assert f"--ckpt_path {engine.best_model_path}" in said[2]


def test_the_next_command_builds_the_model_of_the_checkpoint(
    tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    from anomalib.cli.cli import AnomalibCLI

    model = build_model(layers=["layer1", "layer2"], noise={"size": [0.1, 0.2]}, scoring={"sigma": 3.0})
    engine = build_engine(tmp_path, max_steps=2)
    engine.fit(model, datamodule=tiny_data())
    words = shlex.split(next_command(model, engine.best_model_path))
    assert words[:2] == ["anomalib", "predict"]
    differing = {word.removeprefix("--model.") for word in words if word.startswith("--model.")}
    scoring = {"scoring.sigma", "scoring.prototypes"}
    assert differing == {"backbone", "layers", "student.depth", "noise.size", "pre_trained", *scoring}
    arguments = [*words[1:-1], str(tiny_folder / "test/spot"), "--model.visualizer", "false"]
    monkeypatch.setattr(sys, "argv", ["anomalib", *arguments])
    cli = AnomalibCLI(args=[*arguments, "--default_root_dir", str(tmp_path / "cli")])
    expected = engine.predict(model, data_path=tiny_folder / "test/spot")
    found = cli.engine.predict(cli.model, data_path=tiny_folder / "test/spot", ckpt_path=engine.best_model_path)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one.pred_score, other.pred_score)


def test_a_long_fit_prints_one_estimate_of_its_time(
    tiny_data: Callable, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    class Clock(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            now[0] += 3

    monkeypatch.setattr(run_report.time, "monotonic", lambda: now[0])
    build_engine(tmp_path, max_steps=20, callbacks=[Clock()], limit_val_batches=0).fit(
        build_quick_model(), datamodule=tiny_data()
    )
    times = [line for line in said if line.startswith("time:")]
    assert times == ["time: about 0:00:21 for 7 more batches, 3 s each"]


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_says_where_the_checkpoint_is(tiny_data: Callable, tmp_path: Path, said: list[str]) -> None:
    engine = build_engine(tmp_path, max_steps=40, callbacks=[At(7, KeyboardInterrupt())])
    data = tiny_data()
    with pytest.raises(SystemExit):
        engine.fit(build_quick_model(), datamodule=data)
    line = next(line for line in said if line.startswith("interrupted after 7 steps"))
    path = re.search(r"checkpoint: (\S+)", line)[1]
    loaded = ScaleAwareCRD.load_from_checkpoint(path)
    assert loaded.post_processor.has_thresholds
    assert len(data.train_data) == 12
    more = build_engine(tmp_path / "more", max_steps=9)
    more.fit(build_quick_model(), datamodule=tiny_data(), ckpt_path=path)
    assert more.trainer.global_step == 9


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(("step", "what"), [(0, "there is no checkpoint"), (14, "the last checkpoint is")])
def test_an_interrupt_that_keeps_nothing_says_so(
    step: int, what: str, tiny_data: Callable, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if step:
        save = Trainer.save_checkpoint

        def full(trainer: Trainer, path: str, *arguments: object) -> None:
            if "interrupted" in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            save(trainer, path, *arguments)

        monkeypatch.setattr(Trainer, "save_checkpoint", full)
    engine = build_engine(tmp_path, max_steps=40, callbacks=[At(step, KeyboardInterrupt())])
    with pytest.raises(SystemExit):
        engine.fit(build_quick_model(), datamodule=tiny_data())
    assert any(line.startswith(f"interrupted after {step} steps") and what in line for line in said)


def test_a_failed_run_leaves_no_folder(tiny_data: Callable, tiny_folder: Path, tmp_path: Path) -> None:
    def failing() -> Engine:
        engine = build_engine(tmp_path, max_steps=2)
        broken: Folder = tiny_data(normal_dir="nowhere")
        with pytest.raises(FileNotFoundError):
            engine.fit(build_quick_model(), datamodule=broken)
        return engine

    failing()
    folder = tmp_path / "ScaleAwareCRD" / "tiny"
    assert list(folder.iterdir()) == []
    good = build_engine(tmp_path, max_steps=2)
    good.fit(build_quick_model(), datamodule=tiny_data())
    failing()
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "v0"]
    assert (folder / "latest").resolve() == (folder / "v0").resolve()
    assert Path(good.best_model_path).is_file()


def test_files_of_a_failed_run_are_kept(tiny_data: Callable, tmp_path: Path) -> None:
    engine = build_engine(tmp_path, max_steps=30, callbacks=[At(20, RuntimeError("no"))])
    with pytest.raises(RuntimeError, match="no"):
        engine.fit(build_quick_model(), datamodule=tiny_data())
    assert (tmp_path / "ScaleAwareCRD/tiny/latest/weights/lightning/model.ckpt").is_file()


def test_only_version_folders_are_removed(tmp_path: Path) -> None:
    for name in ("mine", "v3"):
        (tmp_path / name).mkdir()
        remove_empty_version(tmp_path / name)  # no `latest`
        assert (tmp_path / name).is_dir()
    (tmp_path / "latest").symlink_to(tmp_path / "v3")
    (tmp_path / "v3/weights").mkdir()
    (tmp_path / "v3/config.yaml").write_text("a: 1")
    (tmp_path / "v3/weights/model.ckpt").write_text("")
    remove_empty_version(tmp_path / "v3")
    assert (tmp_path / "v3").is_dir()
    (tmp_path / "v3/weights/model.ckpt").unlink()
    for name in ("v1", "v20"):
        (tmp_path / name).mkdir()
    remove_empty_version(tmp_path / "v3")
    assert not (tmp_path / "v3").exists()
    assert (tmp_path / "latest").resolve().name == "v20"


def test_a_full_disk_leaves_the_earlier_checkpoint(
    tiny_data: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, seen = torch.save, []
    monkeypatch.setattr(validation_times, "_WORTH_SAVING", 600.0)  # however slow the machine is

    def full(content: dict, file: object) -> None:
        if content["global_step"] == 40:
            file.write(b"half")
            seen.append(Path(file.name))
            msg = "[enforce fail at inline_container.cc:672]"
            raise RuntimeError(msg) from OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(checkpoint_files.torch, "save", full)
    engine = build_engine(tmp_path, max_steps=40)
    with pytest.raises(OSError, match=r"the checkpoint '.*model.ckpt' could not be written: no space is left; the ear"):
        engine.fit(build_quick_model(), datamodule=tiny_data())
    folder = seen[0].parent
    assert [path.name for path in folder.iterdir()] == ["model.ckpt"]
    assert torch.load(folder / "model.ckpt", weights_only=True)["global_step"] == 30


def test_checkpoints_of_other_ways_to_write_are_left_alone(tiny_data: Callable, tmp_path: Path) -> None:
    class Own(checkpoint_files.AnomalibCheckpointIO):
        pass

    for plugins, expected in ((None, AtomicCheckpointIO), ([Own()], Own)):
        engine = build_engine(tmp_path, max_steps=1, **({} if plugins is None else {"plugins": plugins}))
        engine.fit(build_quick_model(), datamodule=tiny_data())
        assert type(engine.trainer.strategy.checkpoint_io) is expected
        ScaleAwareCRD.load_from_checkpoint(engine.best_model_path)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_command_line_says_nothing_twice(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import anomalib.cli.cli  # noqa: F401

    root = logging.Logger("root")  # noqa: LOG001 - not the one of this process
    plain, rich = logging.StreamHandler(), RichHandler()
    for handler in (plain, rich):
        root.addHandler(handler)
    real = logging.getLogger
    monkeypatch.setattr(console.logging, "getLogger", lambda name=None: real(name) if name else root)
    monkeypatch.setattr(console, "_on_command_line", False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    console.tidy()
    console.tidy()
    assert root.handlers == [rich if terminal else plain]
    console.say("checkpoint: a path that is longer than a line of eighty characters ends" + 20 * "/folder")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_in_python_lines_are_logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="anomalib_scrd"):
        console.say("checkpoint: here")
    assert "checkpoint: here" in caplog.text
    assert capsys.readouterr().out == ""


def test_no_warning_that_a_user_cannot_act_on(
    tiny_data: Callable, tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    model, engine = build_model(), build_engine(tmp_path, max_steps=2)
    console.tidy()
    recwarn.clear()
    data = tiny_data(mask_dir=None)
    engine.fit(model, datamodule=data)
    engine.test(model, datamodule=data)
    about_workers = ("does not have many workers", "smaller than the logging interval")
    left = [str(w.message) for w in recwarn if not any(text in str(w.message) for text in about_workers)]
    assert left == []
    assert "litlogger" not in caplog.text
    assert "will override" not in caplog.text
    assert os.environ.get("PYTEST_CURRENT_TEST")
