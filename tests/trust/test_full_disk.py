"""A full disk at each of the writes: one message, and the earlier file whole. Exports: tests/export/test_files.py."""

import errno
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anomalib_scrd.benchmark.files import write_text
from anomalib_scrd.decision.__main__ import change_rate
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.training.checkpoint_files import AtomicCheckpointIO
from tests.edge.conftest import ENVIRONMENT, build_openvino, command, save_grey
from tests.export.test_files import room
from tests.models import build_engine, build_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")


def test_checkpoints(tiny_data: Callable, tmp_path: Path) -> None:
    """The second training finds no room; what the first has written can be loaded."""
    model = build_model(layers=["layer1", "layer2"])
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
        build_engine(tmp_path / "other", max_steps=1, logger=False).fit(
            build_model(layers=["layer1", "layer2"]), datamodule=tiny_data()
        )
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
        build_engine(tmp_path, max_steps=2, logger=False).fit(
            build_model(layers=["layer1", "layer2"]), datamodule=tiny_data()
        )
    assert str(caught.value).count("could not be written") == 1
