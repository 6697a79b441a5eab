"""anomalib finds the plugin's classes by every kind of name, without an import by the user."""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import run
from tests.integration.probe_lookup import ARGUMENTS, CLASS_PATHS, DATA, NAMES

MODEL = ["anomalib_scrd.lightning_model", "ScaleAwareCRD", *ARGUMENTS["optimiser"].values()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one fresh interpreter found; see probe_lookup.py."""
    script = Path(__file__).with_name("probe_lookup.py")
    done = run([sys.executable, "-I", script], tmp_path_factory.mktemp("lookup"))
    assert "UserWarning: anomalib_scrd" not in done.stderr
    return json.loads(done.stdout.rpartition("\noutcomes ")[2])


def test_nothing_of_the_plugin_is_loaded_before_it_is_needed(outcomes: dict[str, Any]):
    assert outcomes["early"] == []
    assert outcomes["data before models"] is True
    assert outcomes["registered with models"] == ["anomalib_scrd.data", "anomalib_scrd.lightning_model"]
    assert outcomes["warnings"] == []


def test_listed_once_in_each_case(outcomes: dict[str, Any]):
    assert outcomes["listed"] == [["scale_aware_c_r_d"], ["ScaleAwareCRD"], ["Scale Aware Crd"]]
    assert outcomes["subclasses"] == ["anomalib_scrd.lightning_model"]


@pytest.mark.parametrize("name", NAMES)
def test_get_model_by_name(outcomes: dict[str, Any], name: str):
    assert outcomes[f"{name} name"] == MODEL


@pytest.mark.parametrize("path", CLASS_PATHS)
def test_get_model_by_class_path(outcomes: dict[str, Any], path: str):
    assert outcomes[f"{path} dict"] == MODEL


@pytest.mark.parametrize("form", ["omegaconf", "namespace", "namespace of dict"])
def test_get_model_from_every_kind_of_configuration(outcomes: dict[str, Any], form: str):
    assert outcomes[f"ScaleAwareCRD {form}"] == MODEL


def test_get_model_with_further_arguments(outcomes: dict[str, Any]):
    # Not together with a Namespace of init_args: anomalib 2.7 fails there, with every model.
    assert outcomes["dict and more"] == outcomes["omegaconf and more"] == 1.5
    assert outcomes["no init_args"] == MODEL


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("package", ["", "anomalib_scrd."])
@pytest.mark.parametrize("form", ["dict", "omegaconf", "namespace", "namespace of dict", "under data", "command line"])
def test_data_modules(outcomes: dict[str, Any], name: str, package: str, form: str):
    assert outcomes[f"{package}{name} {form}"] == DATA[name]["root"]


def test_registered_whatever_is_imported_first(tmp_path: Path):
    first = [
        "anomalib.engine",
        "anomalib.models",
        "anomalib_scrd.lightning_model",
        "anomalib_scrd.decision.__main__",
        "anomalib_scrd.integration.checkpoints",
        "anomalib_scrd.training.checkpoint_files",
    ]
    done = run([sys.executable, Path(__file__).with_name("probe_first_import.py"), *first], tmp_path)
    assert done.stdout.splitlines() == [f"{name} ScaleAwareCRD" for name in first], done.stderr
    assert "anomalib_scrd is not available" not in done.stderr


def test_entry_point():
    from anomalib_scrd import ScaleAwareCRD

    (found,) = importlib.metadata.entry_points(group="anomalib.models", name="ScaleAwareCRD")
    assert found.load() is ScaleAwareCRD
