"""Separate interpreters: these tests depend on the start of an interpreter and the order of its imports."""

import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

# Hub and registry of models are out of reach, and a variable of the caller does not switch the plugin off.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "ANOMALIB_SCRD_DISABLE"} | {
    "COLUMNS": "200",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def run(
    command: Sequence[object], cwd: Path, *, check: bool = True, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command with the environment above and some variables more; with ``check`` it has to succeed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Interpreter:
    """A virtual environment without pip and with only its own folder of packages."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.folder = folder
        self.python = scripts / ("python.exe" if os.name == "nt" else "python")
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(run([self.python, "-I", "-c", where], folder).stdout.strip())

    def __call__(
        self, code: str, *flags: str, check: bool = True, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run code in it."""
        return run([self.python, *flags, "-c", code], self.folder, check=check, **variables)

    def write(self, name: str, text: str) -> None:
        """Write a file below its folder of packages."""
        path = self.packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    """A fresh, empty one."""
    return Interpreter(tmp_path / "environment")
