"""Contents of a wheel, and the files next to the package after installing and uninstalling."""

import ast
import importlib.util
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.conftest import ROOT
from tests.integration.conftest import Interpreter, run

BESIDE = {"anomalib_scrd.pth", "anomalib_scrd.start", "anomalib_scrd_startup.py"}
STARTUP = ROOT / "anomalib_scrd/integration/startup"
WAITS = "import sys; print(any(hasattr(finder, 'anomalib_scrd') for finder in sys.meta_path))"


def pip(*arguments: object, cwd: Path) -> str:
    """Run pip; a test that needs its build requirements ends here where no registry has them."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    done = run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], cwd, check=False)
    unreachable = ("No matching distribution found for hatchling", "No matching distribution found for editables")
    if done.returncode and any(text in done.stderr for text in unreachable):
        pytest.skip("no registry in reach to build from: hatchling and editables come from there")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a clean copy of this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    copied = folder / "source"
    shutil.copytree(ROOT / "anomalib_scrd", copied / "anomalib_scrd", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copied)
    pip("wheel", "--no-deps", "-w", folder, copied, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def left(interpreter: Interpreter) -> set[str]:
    """Names of the plugin in the folder of packages, which goes with the last of them."""
    return {path.name for path in interpreter.packages.glob("*") if "anomalib" in path.name}


def test_wheel_holds_the_startup_files_at_the_top(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert names >= BESIDE
        assert archive.read("anomalib_scrd_startup.py") == (STARTUP / "__init__.py").read_bytes()
        assert archive.read("anomalib_scrd.pth") == (STARTUP / "anomalib_scrd.pth").read_bytes()
        assert archive.read("anomalib_scrd.start") == (STARTUP / "anomalib_scrd.start").read_bytes()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        record = archive.read(f"{info}/RECORD").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == BESIDE | {"anomalib_scrd", info}
    assert all(f"\n{name}," in f"\n{record}" for name in BESIDE)  # what uninstalling removes
    assert entry_points.split() == [
        "[anomalib.models]",
        "ScaleAwareCRD",
        "=",
        "anomalib_scrd.lightning_model:ScaleAwareCRD",
    ]
    source = wheel.with_name("source")
    files = {path.relative_to(source).as_posix() for path in (source / "anomalib_scrd").rglob("*") if path.is_file()}
    assert files >= {"anomalib_scrd/py.typed", "anomalib_scrd/presets.py", "anomalib_scrd/edge/pyproject.toml"}
    # hatchling moves the start-up files, which lie beside the package in a wheel.
    assert {name for name in names if name.startswith("anomalib_scrd/")} == {
        name for name in files if not name.startswith("anomalib_scrd/integration/startup/")
    }


def test_installing_and_uninstalling(wheel: Path, interpreter: Interpreter):
    assert left(interpreter) == set()
    pip("--python", interpreter.python, "install", "--no-deps", "--no-index", wheel, cwd=interpreter.folder)
    assert left(interpreter) >= BESIDE | {"anomalib_scrd"}
    done = interpreter(WAITS)
    assert (done.stdout.strip(), done.stderr) == ("True", "")
    # This environment has no torch and no anomalib: the package itself needs neither.
    assert interpreter("import anomalib_scrd; print(anomalib_scrd.__version__)").stdout.strip()
    pip("--python", interpreter.python, "uninstall", "-y", "anomalib-scrd", cwd=interpreter.folder)
    assert left(interpreter) == set()
    done = interpreter(WAITS)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_editable_install_has_them_too(interpreter: Interpreter):
    pip("--python", interpreter.python, "install", "--no-deps", "-e", ROOT, cwd=interpreter.folder)
    assert left(interpreter) >= BESIDE
    assert "anomalib_scrd" not in left(interpreter)
    where = "import anomalib_scrd; print(anomalib_scrd.__file__)"
    done = interpreter(f"{WAITS}; {where}")
    assert done.stderr == ""
    assert done.stdout.split() == ["True", str(ROOT / "anomalib_scrd/__init__.py")]
    pip("--python", interpreter.python, "uninstall", "-y", "anomalib-scrd", cwd=interpreter.folder)
    assert left(interpreter) == set()


# Modules that import packages of an extra, each only when it is needed.
EXTRAS = {"benchmark": "benchmark", "imaging": "medical", "edge": "benchmark"}
PROVIDED_BY = {"PIL": "pillow", "sklearn": "scikit-learn"}


def declared(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", text).group().lower().replace("-", "_") for text in requirements}


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in (ROOT / "anomalib_scrd").rglob("*.py"):
        room = path.relative_to(ROOT / "anomalib_scrd").parts[0]
        extra = project["optional-dependencies"].get(EXTRAS.get(room, ""), [])
        known = declared([*project["dependencies"], *extra]) | {"anomalib_scrd", "anomalib_scrd_startup"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            tops = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
            missing = {PROVIDED_BY.get(top, top).lower().replace("-", "_") for top in tops} - known
            assert not missing, f"{path.relative_to(ROOT)} imports {missing}"


def test_tools_are_pinned_to_a_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for tool in ("mypy", "ruff"):
        (requirement,) = [text for text in project["optional-dependencies"]["test"] if text.startswith(tool)]
        assert ">=" in requirement
        assert "<" in requirement.partition(">=")[2]
