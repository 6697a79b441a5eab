"""The distribution for machines without torch: built, installed from the registry into an empty environment, run."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from anomalib_scrd.edge.__main__ import main
from anomalib_scrd.edge.journal import read_records
from tests.conftest import ROOT

_UNREACHABLE = ("No matching distribution found", "Could not find a version that satisfies", "ConnectionError")


def pip(*words: object) -> None:
    """Run pip; a test ends here where no registry is in reach."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode and any(text in done.stderr for text in _UNREACHABLE):
        pytest.skip("no registry in reach")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a clean copy of the tree, built where the room lies."""
    folder = tmp_path_factory.mktemp("edge_wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for room in ("edge", "imaging"):
        shutil.copytree(ROOT / "anomalib_scrd" / room, folder / "source" / "anomalib_scrd" / room, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "anomalib_scrd/atomic_files.py"):
        shutil.copy(ROOT / name, folder / "source" / name)
    pip("wheel", "--no-deps", "-w", folder, folder / "source" / "anomalib_scrd" / "edge")
    (built,) = folder.glob("*.whl")
    return built


def test_holds_its_rooms_and_the_version_of_the_project(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        said = archive.read(metadata).decode()
    held = {"edge", "imaging", "atomic_files.py"}
    assert {"/".join(name.split("/")[:2]) for name in names} == {f"anomalib_scrd/{name}" for name in held}
    assert "anomalib_scrd/edge/report/command.py" in names
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    assert f"Version: {json.loads(version.split('=')[1])}" in said
    needed = [line for line in said.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert {line.split()[1].partition(">")[0] for line in needed} == {"numpy", "openvino", "pillow"}


def test_scores_in_an_environment_without_torch_and_anomalib(
    wheel: Path, xml_file: Path, images: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "environment", with_pip=False, symlinks=os.name != "nt")
    scripts = tmp_path / "environment" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    pip("--python", python, "install", "--only-binary", ":all:", wheel)
    absent = (
        "import importlib.util as u; print([n for n in ('torch', 'anomalib', 'pandas', 'scipy') if u.find_spec(n)])"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*words: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [python, *map(str, words)], capture_output=True, text=True, check=True, cwd=tmp_path, env=clean, timeout=120
        )

    assert run("-c", absent).stdout.strip() == "[]"
    run("-m", "anomalib_scrd.edge", xml_file, images, "--output", "there", "--maps", "tiff", "--overlays")
    run("-m", "anomalib_scrd.edge", "report", xml_file, images, "--output", "report", "--seconds", "0.1")
    run("-m", "anomalib_scrd.edge", "gallery", xml_file, images, "--output", "report")
    assert (tmp_path / "report" / "report.html").exists()
    assert (tmp_path / "report" / "gallery.html").exists()
    assert main([str(xml_file), str(images), "--output", str(tmp_path / "here"), "--maps", "tiff", "--overlays"]) == 0
    there, here = (read_records(tmp_path / name) for name in ("there", "here"))
    assert there == here
    assert len(there) == 9
