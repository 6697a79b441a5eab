"""The script for the newest versions, without installing them."""

import sys
from pathlib import Path

import pytest

from tests.trust import next_versions
from tests.trust.next_versions import broken, commands, contract
from tests.trust.scripts import ROOT


def test_the_hook_that_broke_is_named() -> None:
    output = """
FAILED tests/integration/test_hooks.py::test_h2_models_are_direct_subclasses - AssertionError: H2: list_models
FAILED tests/integration/test_hooks.py::test_h11_decisions_of_all_processes[DDPStrategy] - TypeError: x
ERROR tests/integration/test_hooks.py - ImportError: cannot import name 'AnomalibModule'
3 failed, 20 passed
"""
    assert broken(output) == {
        "H2": "AssertionError: H2: list_models",
        "H11": "TypeError: x",
        "the import of the contract tests": "ImportError: cannot import name 'AnomalibModule'",
    }
    assert broken("24 passed in 3 s") == {}


def test_the_newest_versions_are_asked_for() -> None:
    project, anomalib, others = commands("python", "git+https://host/anomalib", pre=True)
    assert project[-1] == f"{ROOT}[test,offline]"
    assert anomalib[-4:] == ["--upgrade", "--pre", "--no-deps", "git+https://host/anomalib"]
    assert {"lightning", "timm", "openvino"} <= set(others)


def test_the_reason_is_told_however_long_the_line_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "test_h7_" + "x" * 100
    (tmp_path / "test_contract.py").write_text(f"def {name}():\n    assert False, 'H7: {'y' * 100} is gone'\n")
    monkeypatch.setattr(next_versions, "ROOT", tmp_path)
    monkeypatch.setattr(next_versions, "_CONTRACT", "test_contract.py")
    status, output = contract(sys.executable)
    assert status == 1
    (reason,) = broken(output).values()
    assert "y is gone" in reason
