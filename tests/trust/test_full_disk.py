"""A full disk at each of the writes: one message, the earlier file unchanged. Exports: tests/export/test_files.py."""

import errno
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from anomalib_scrd.benchmark.files import write_text
from anomalib_scrd.data.patient_scores import PatientScores
from anomalib_scrd.decision.__main__ import change_rate
from anomalib_scrd.edge.__main__ import main as edge
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.export.training_scores import _Writer
from anomalib_scrd.imaging.patients import Pseudonyms
from anomalib_scrd.training.checkpoint_files import AtomicCheckpointIO
from tests.edge.conftest import ENVIRONMENT, build_openvino, command, save_grey
from tests.export.test_files import room
from tests.models import build_engine, build_quick_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")


def test_checkpoints(tiny_data: Callable, tmp_path: Path) -> None:
    """The second training has no space; the first one's files can be loaded."""
    model = build_quick_model()
    path = tmp_path / "model.ckpt"
    engine = build_engine(tmp_path, max_steps=1, logger=False)
    engine.fit(model, datamodule=tiny_data())
    engine.trainer.save_checkpoint(path)
    before = path.read_bytes()
    with (
        room(100_000),
        pytest.raises(OSError, match=r"checkpoint '.*model.ckpt' could not be written: no space is left; the earlier"),
    ):
        engine.trainer.save_checkpoint(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.glob(".*")] == []
    with room(100_000), pytest.raises(OSError, match="could not be written: no space is left; the earlier file"):
        change_rate(path, 0.2)
    assert path.read_bytes() == before
    with room(100_000), pytest.raises(OSError, match="could not be written: no space is left; there is no"):
        build_engine(tmp_path / "other", max_steps=1, logger=False).fit(build_quick_model(), datamodule=tiny_data())
    assert not list((tmp_path / "other").rglob("*.ckpt"))
    AtomicCheckpointIO().load_checkpoint(path, weights_only=True)


def test_tables_of_the_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_text(path, "old")
    with room(1000), pytest.raises(OSError, match="no space is left; the earlier file of this name") as caught:
        write_text(path, "x" * 5000)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "old"


def test_results_of_the_edge_runner(tmp_path: Path) -> None:
    """Exit status 4 and one line; what was scored before stays; the next run scores the rest."""
    for index in range(60):
        save_grey(tmp_path / "images" / f"{index:03d}.png", 1 + index)
    model = build_openvino(tmp_path / "model.xml")
    words = command((model, tmp_path / "images", "--output", tmp_path / "results", "--quiet"))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))  # noqa: E731 - a child's
    done = subprocess.run(words, env=ENVIRONMENT, check=False, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 4, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "File too large" in done.stderr or "no space is left" in done.stderr
    kept = {record.path: record.score for record in read_records(tmp_path / "results")}
    assert 0 < len(kept) < 60
    done = subprocess.run(words, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    records = {record.path: record.score for record in read_records(tmp_path / "results")}
    assert len(records) == 60
    assert kept.items() <= records.items()
    assert all(score == pytest.approx((1 + int(path[:3])) / 255) for path, score in records.items())


def test_a_training_that_fails_so_tells_it_once(tiny_data: Callable, tmp_path: Path) -> None:
    assert torch.is_grad_enabled()
    with room(50_000), pytest.raises(OSError, match="no space is left") as caught:
        build_engine(tmp_path, max_steps=2, logger=False).fit(build_quick_model(), datamodule=tiny_data())
    assert str(caught.value).count("could not be written") == 1


def test_pages_of_the_edge_runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report or gallery without space leaves the earlier one."""
    for index in range(4):
        save_grey(tmp_path / "images" / f"{index}.png", 60 * (1 + index))
    model = build_openvino(tmp_path / "model.xml")
    for name, more in (("report", ("--seconds", "0")), ("gallery", ())):
        words = [name, *map(str, (model, tmp_path / "images", "--output", tmp_path / name)), "--quiet", *more]
        assert edge(words) == 0
        page = tmp_path / name / f"{name}.html"
        before = page.read_bytes()
        capsys.readouterr()
        with room(len(before) // 2):
            assert edge(words) == 4
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "could not be written: no space is left; the earlier file of this name is unchanged" in line
        assert page.read_bytes() == before
        assert not list(page.parent.glob(".*.part"))


def test_scores_of_patients(tmp_path: Path) -> None:
    scores = PatientScores()
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path, testing=False)

    def write(count: int) -> None:
        scores._rows = [
            {"sample": i, "patient": f"p{i // 2}", "volume": "", "pred_score": 0.5, "gt_label": 0} for i in range(count)
        ]
        scores.on_test_epoch_end(trainer, cast("Any", None))

    write(4)
    path = tmp_path / "patient_scores.csv"
    before = path.read_bytes()
    with room(1000), pytest.raises(OSError, match=r"the table .* no space is left; the earlier file of this name"):
        write(400)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_salt_is_whole_or_there_is_none(tmp_path: Path) -> None:
    """Half a salt would give other pseudonyms from then on, and an empty file would be refused for good."""
    path = tmp_path / "salt"
    with room(10), pytest.raises(OSError, match=r"the salt file .* no space is left; there is no file of this name"):
        Pseudonyms(path)
    assert list(tmp_path.iterdir()) == []
    name = Pseudonyms(path).of("x")
    assert Pseudonyms(path).of("x") == name
    assert list(tmp_path.iterdir()) == [path]


def test_the_salt_of_the_faster_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "salt"
    write = Path.write_text

    def slow(self: Path, *arguments: Any, **more: Any) -> int:
        count = write(self, *arguments, **more)
        if not path.exists():
            write(path, "of another process\n")
        return count

    monkeypatch.setattr(Path, "write_text", slow)
    first = Pseudonyms(path)
    assert path.read_text() == "of another process\n"
    assert Pseudonyms(path).of("x") == first.of("x")
    assert list(tmp_path.iterdir()) == [path]


def test_maps_of_the_scales(tmp_path: Path) -> None:
    """Of the scores of a checkpoint, which a report compares an export with."""
    journal: Any = SimpleNamespace(folder=tmp_path)
    writer = _Writer(journal, tmp_path, [], cast("Any", None))
    weights = SimpleNamespace(**{name: torch.ones(2) for name in ("mean", "spread", "weight")})
    parts = SimpleNamespace(map_and_score=SimpleNamespace(map_weights=weights), distance_names=["a"])
    model: Any = SimpleNamespace(model=parts)
    writer._write_scales("x.npz", np.zeros((2, 8, 8)), model)
    path = tmp_path / "scales" / "x.npz"
    before = path.read_bytes()
    with room(500), pytest.raises(OSError, match="no space is left; the earlier file of this name is unchanged"):
        writer._write_scales("x.npz", np.zeros((2, 8, 8)), model)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
