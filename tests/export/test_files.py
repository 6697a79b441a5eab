"""A full disk or a killed process leaves the earlier export unchanged, and no half file under a final name."""

import errno
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomalib_scrd import ScaleAwareCRD
from anomalib_scrd.export.files import completed_files
from tests.export.conftest import Exported, Trained
from tests.models import build_quick_model

FORMS = {"torch": "model.pt", "onnx": "model.onnx", "openvino": "model.xml"}


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writes fail as on a full disk, in C++ too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, name: str, text: str) -> None:
    with completed_files(folder / name) as scratch:
        (scratch / name).write_text(text)
        (scratch / "model.bin").write_text(text * 2)
        (scratch / "sub").mkdir()
        (scratch / "sub/left.txt").write_text("out")


def test_files_appear_when_all_are_complete(tmp_path: Path) -> None:
    with completed_files(tmp_path / "deep/model.xml") as scratch:
        assert scratch.parent == tmp_path / "deep"
        (scratch / "model.xml").write_text("x")
        (scratch / "model.bin").write_text("b")
        assert [path.name for path in (tmp_path / "deep").iterdir()] == [scratch.name]
    assert contents(tmp_path / "deep") == {"model.xml": b"x", "model.bin": b"b"}
    write(tmp_path / "deep", "model.xml", "new")
    assert contents(tmp_path / "deep") == {"model.xml": b"new", "model.bin": b"newnew"}


def test_the_file_itself_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = []
    original = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: renamed.append(target.name) or original(self, target))
    write(tmp_path, "model.xml", "x")
    assert renamed == ["model.bin", "model.xml"]
    renamed.clear()
    write(tmp_path, "a.onnx", "x")
    assert renamed == ["model.bin", "a.onnx"]


def test_an_earlier_file_never_lies_beside_weights_that_are_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two renames: there is no export, instead of one with another's weights."""
    write(tmp_path, "model.xml", "old")
    original = Path.replace

    def once(self: Path, target: Path) -> None:
        original(self, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", once)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "model.xml", "new")
    monkeypatch.setattr(Path, "replace", original)
    assert contents(tmp_path) == {"model.bin": b"newnew"}
    write(tmp_path, "model.xml", "new")
    assert contents(tmp_path) == {"model.xml": b"new", "model.bin": b"newnew"}


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), ValueError("other"), FileNotFoundError(errno.ENOENT, "data")])
def test_other_errors_pass_and_leave_the_earlier_file(raised: BaseException, tmp_path: Path) -> None:
    write(tmp_path, "model.xml", "old")

    def fail() -> None:
        with completed_files(tmp_path / "model.xml") as scratch:
            (scratch / "model.xml").write_text("half")
            raise raised

    with pytest.raises(type(raised)) as caught:
        fail()
    assert caught.value is raised
    assert contents(tmp_path) == {"model.xml": b"old", "model.bin": b"oldold"}


def test_an_error_of_the_program_is_none_of_the_disk(tmp_path: Path) -> None:
    def fail() -> None:
        with completed_files(tmp_path / "model.xml"):
            message = "the operation is not supported"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="the operation is not supported"):
        fail()


@pytest.mark.parametrize("kind", FORMS)
def test_a_full_disk_is_named_and_the_earlier_export_survives(
    kind: str, edge: Trained, edge_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by torch, Python and OpenVINO, each with an error of its own."""
    path = tmp_path / "weights" / kind / FORMS[kind]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"old")
    model = edge.model if kind == "openvino" else build_quick_model()  # to trace the first takes half a minute
    if kind == "openvino":
        path.with_suffix(".bin").write_bytes(b"older")
        monkeypatch.setattr(ScaleAwareCRD, "to_onnx", lambda *_args, **_kwargs: edge_export.onnx)
    before = contents(tmp_path)
    with (
        room(500_000),
        pytest.raises(OSError, match=r"the export .* could not be written: no space is left; the") as caught,
    ):
        getattr(model, f"to_{kind}")(tmp_path)
    assert str(path) in str(caught.value)
    assert "the earlier file of this name is unchanged" in str(caught.value)
    assert caught.value.errno == errno.EFBIG
    assert contents(tmp_path) == before
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]


def test_a_killed_export_leaves_the_earlier_one(tmp_path: Path) -> None:
    """Killed when all files are written but not yet renamed."""
    write(tmp_path, "model.xml", "old")
    code = f"""
import os, signal
from pathlib import Path
from anomalib_scrd.export import files
files._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)
with files.completed_files(Path({str(tmp_path / "model.xml")!r})) as scratch:
    (scratch / "model.xml").write_text("half")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert {name: text for name, text in contents(tmp_path).items() if "/" not in name} == {
        "model.xml": b"old",
        "model.bin": b"oldold",
    }
    write(tmp_path, "model.xml", "new")
    assert (tmp_path / "model.xml").read_text() == "new"
