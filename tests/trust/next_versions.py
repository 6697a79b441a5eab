"""The newest anomalib, Lightning, timm and OpenVINO, beyond the pins: ``python -m tests.trust.next_versions``.

Makes a virtual environment, installs this project and then the newest versions over it, runs the contract tests
(``tests/integration/test_hooks.py``) and prints the broken hooks, which the table in
``anomalib_scrd/integration/README.md`` explains. ``--anomalib git+https://github.com/open-edge-platform/anomalib``
takes another anomalib, and ``--pre`` pre-releases too. For a scheduled job: the exit status is 1 if a hook broke, 2 if
the versions cannot be installed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEWEST = ("lightning", "timm", "openvino", "jsonargparse", "torchmetrics", "safetensors")
_CONTRACT = "tests/integration/test_hooks.py"


def commands(python: str, anomalib: str, *, pre: bool) -> list[list[str]]:
    """What is run to install: the project with its tests, then the newest versions over it."""
    install = [python, "-m", "pip", "install", "--quiet"]
    newer = [*install, "--upgrade", *(["--pre"] if pre else [])]
    return [
        [*install, "--editable", f"{ROOT}[test,offline]"],
        # in one resolution the project's own pins would win
        [*newer, "--no-deps", anomalib],
        [*newer, *NEWEST],
    ]


def broken(output: str) -> dict[str, str]:
    """Hooks whose test failed, with the reason, from what pytest printed with ``-rfE``.

    A test that is none of a hook's counts under its own name; so does a file that cannot be imported.
    """
    found = {}
    for line in output.splitlines():
        match = re.match(r"(?:FAILED|ERROR) \S+?(?:::(\S+))?(?: - (.*))?$", line)
        if match:
            name, reason = match[1] or "the import of the contract tests", match[2] or ""
            hook = re.match(r"test_(h\d+)_", name)
            found[hook[1].upper() if hook else name] = reason
    return found


def versions(python: str) -> str:
    """Name and version of each package in question."""
    names = ["anomalib", "torch", *NEWEST]
    code = f"from importlib.metadata import version\nprint(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def contract(python: str) -> tuple[int, str]:
    """Run the contract tests; returns pytest's exit status and output."""
    words = [python, "-m", "pytest", "-n", "0", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider", _CONTRACT]
    wide = os.environ | {"COLUMNS": "1000"}  # pytest leaves out a reason for which a line has no room
    done = subprocess.run(words, cwd=ROOT, env=wide, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main(words: list[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust.next_versions", description=__doc__)
    parser.add_argument("--anomalib", default="anomalib", help="what pip is to install for anomalib")
    parser.add_argument("--pre", action="store_true", help="take pre-releases too")
    parser.add_argument("--python", help="run in this interpreter's environment, which is left as it is")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="next-") as folder:
        python = arguments.python
        if python is None:
            venv.create(folder, with_pip=True)
            python = str(Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python"))
            for command in commands(python, arguments.anomalib, pre=arguments.pre):
                print("$", *command[1:], flush=True)
                if subprocess.run(command, check=False).returncode:
                    print("could not be installed")
                    return 2
        print(versions(python), flush=True)
        status, output = contract(python)
    found = broken(output)
    for hook, reason in found.items():
        print(f"{hook} broke: {reason}")
    if status and not found:
        print(output[-3000:])
    print("all hooks hold" if not status else f"{len(found)} hooks broke")
    return int(bool(status))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
