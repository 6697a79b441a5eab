"""The start-up file: behaviour of an interpreter with the plugin installed, complete or damaged."""

import pkgutil
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from anomalib_scrd.integration import startup
from tests.integration.conftest import Interpreter, run

FOLDER = Path(startup.__file__).parent
LINE = (FOLDER / "anomalib_scrd.pth").read_text(encoding="utf-8")

# Stub of anomalib: an interpreter that imports it takes 30 ms instead of 10 s.
ANOMALIB = {
    "anomalib/__init__.py": "",
    "anomalib/data/__init__.py": "__all__ = ['Folder']",
    "anomalib/models/__init__.py": "import anomalib.data\nfrom os import environ\nif 'BROKEN' in environ: 1 / 0\n",
}
# Stub of the package that records its calls.
PLUGIN = {
    "anomalib_scrd/__init__.py": "",
    "anomalib_scrd/integration/__init__.py": "",
    "anomalib_scrd/integration/registration.py": """
import sys
calls = []
def register_data(): calls.append("data"); assert sys.modules["anomalib.data"]
""",
    # The real one registers its class at its end.
    "anomalib_scrd/lightning_model.py": """
import sys
from anomalib_scrd.integration.registration import calls
calls.append("model"); assert sys.modules["anomalib.models"]
""",
}
WAITS = "import sys; print([f.anomalib_scrd for f in sys.meta_path if hasattr(f, 'anomalib_scrd')])"
CALLS = "\nfrom anomalib_scrd.integration import registration; print(registration.calls)"


@pytest.fixture
def installed(interpreter: Interpreter) -> Interpreter:
    """An interpreter with the start-up file, the plugin's stand-in and anomalib's."""
    shutil.copy(FOLDER / "anomalib_scrd.pth", interpreter.packages)
    shutil.copy(FOLDER / "__init__.py", interpreter.packages / "anomalib_scrd_startup.py")
    for name, text in (ANOMALIB | PLUGIN).items():
        interpreter.write(name, text)
    return interpreter


def silent(interpreter: Interpreter, code: str, *flags: str, **variables: str) -> str:
    """Output of the code; the error stream must be empty."""
    done = interpreter(code, *flags, **variables)
    assert done.stderr == ""
    return done.stdout.strip()


def test_installed_file_is_this_one():
    installed = Path(sysconfig.get_path("purelib"), "anomalib_scrd_startup.py")
    assert installed.read_text(encoding="utf-8") == (FOLDER / "__init__.py").read_text(encoding="utf-8"), (
        "the start-up file changed since the installation: install the project again"
    )


def test_a_start_imports_the_startup_module_alone(installed: Interpreter):
    code = "import sys; print(*sys.modules)"
    names = silent(installed, code).split()
    assert silent(installed, WAITS) == "[True]"
    (installed.packages / "anomalib_scrd.pth").unlink()
    assert set(names) - set(silent(installed, code).split()) == {"anomalib_scrd_startup"}
    assert silent(installed, WAITS) == "[]"


def test_plain_interpreter_of_this_environment(tmp_path: Path):
    code = f"{WAITS}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = run([sys.executable, "-c", code], tmp_path)
    waits, names = done.stdout.splitlines()
    assert waits == "[True]"
    assert done.stderr == ""
    assert not {"anomalib", "anomalib_scrd", "lightning", "numpy", "torch"} & set(names.split())


def test_import_of_the_package_is_cheap(tmp_path: Path):
    code = """
import sys
before = set(sys.modules)
import anomalib_scrd
assert anomalib_scrd.__all__
print(*sorted(name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names))
"""
    names = run([sys.executable, "-c", code], tmp_path).stdout.split()
    assert names == ["anomalib_scrd", "anomalib_scrd.integration"]  # the start-up module was there before


@pytest.mark.parametrize("flag", ["", "-I", "-E", "-s"])
def test_works_under_the_flags_of_isolation(installed: Interpreter, flag: str):
    assert silent(installed, "import anomalib.models" + CALLS, *filter(None, [flag])) == "['data', 'model']"


def test_warnings_about_imports_of_anomalib_alone_are_dropped(installed: Interpreter):
    told = [
        "Importing from timm.models.layers is deprecated, please import via timm.layers",
        "The anomalib.models.components.dinov2 package is deprecated and will be removed",
        "Something else",
    ]
    warn = "\n".join(f"warnings.warn({text!r}, FutureWarning)" for text in told)
    installed.write("anomalib/models/__init__.py", f"import warnings\n{warn}\n")
    errors = installed("import anomalib.models").stderr
    assert "Something else" in errors
    assert "deprecated" not in errors


def test_anomalib_with_the_plugin_is_imported_without_a_word():
    code = "import anomalib.models, anomalib_scrd; anomalib_scrd.ScaleAwareCRD"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr + done.stdout


def test_without_site_there_is_no_hook(installed: Interpreter):
    assert silent(installed, WAITS, "-S") == "[]"


@pytest.mark.parametrize("value", ["1", "yes", "0", ""])
def test_environment_variable_switches_it_off(installed: Interpreter, value: str):
    calls = "['data', 'model']" if value in {"0", ""} else "[]"
    assert silent(installed, "import anomalib.models" + CALLS, ANOMALIB_SCRD_DISABLE=value) == calls


def test_an_import_of_the_package_registers_all_the_same(installed: Interpreter):
    shutil.copy(FOLDER.parent / "__init__.py", installed.packages / "anomalib_scrd/real.py")
    code = "import anomalib_scrd.real; anomalib_scrd.real.register_now_or_later(); import anomalib.models"
    assert silent(installed, code + CALLS, ANOMALIB_SCRD_DISABLE="1") == "['data', 'model']"
    assert silent(installed, code + CALLS) == "['data', 'model']"
    # A second import of the model's module does nothing.
    assert silent(installed, "import anomalib.models;" + code + CALLS).startswith("['data', 'model'")


@pytest.mark.parametrize("value", ["0", "1"])
def test_no_finder_is_skipped(installed: Interpreter, value: str):
    # `import` iterates over the finders while the waiting one handles the import: if it removed itself then, the next
    # finder would be skipped, which may be the one of an editable installation of anomalib.
    hidden = installed.folder / "hidden"
    hidden.mkdir()
    (installed.packages / "anomalib/models").rename(hidden / "models")
    code = f"""
import sys
from importlib.machinery import PathFinder
class Only:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(hidden)!r}]) if name == "anomalib.models" else None
sys.meta_path.insert(1, Only)
import anomalib.models
print(anomalib.models.__name__)
"""
    assert silent(installed, code, ANOMALIB_SCRD_DISABLE=value) == "anomalib.models"


def test_data_alone_does_not_register_the_model(installed: Interpreter):
    assert silent(installed, "import anomalib.data" + CALLS) == "['data']"


def test_leaves_when_everything_is_registered(installed: Interpreter):
    code = f"""
import anomalib.data
{WAITS}
import anomalib.models
{WAITS}
import importlib, anomalib
for module in (anomalib.data, anomalib.models):
    assert type(module.__loader__) is type(module.__spec__.loader) is type(anomalib.__loader__), module.__loader__
    importlib.reload(module)
"""
    assert silent(installed, code + CALLS) == "[True]\n[]\n['data', 'model']"


def test_loader_is_like_the_one_it_wraps(installed: Interpreter):
    code = """
import importlib.util
spec = importlib.util.find_spec("anomalib.models")
print(spec.loader.get_source("anomalib.models").splitlines()[0], spec.loader.is_package("anomalib.models"))
"""
    assert silent(installed, code) == "import anomalib.data True"


def test_a_look_for_the_module_is_not_its_import(installed: Interpreter):
    code = 'import importlib.util\nfor i in range(2): assert importlib.util.find_spec("anomalib.models")\n'
    assert silent(installed, code + "import anomalib.models" + CALLS) == "['data', 'model']"


def test_a_failed_import_of_anomalib_fails_as_ever_and_can_be_repeated(installed: Interpreter):
    code = """
import os
try: import anomalib.models
except ZeroDivisionError: print("failed")
del os.environ["BROKEN"]
import anomalib.models"""
    assert silent(installed, code + CALLS, BROKEN="1") == "failed\n['data', 'model']"


def test_a_source_tree_on_the_path_waits_without_an_installation(interpreter: Interpreter):
    code = f"import sys; sys.path.insert(0, {str(FOLDER.parents[2])!r}); import anomalib_scrd; "
    assert silent(interpreter, code + WAITS) == "[True]"


def test_a_second_copy_does_not_wait_beside_the_first(installed: Interpreter):
    # A source tree on the path has one, `anomalib_scrd.integration.startup`.
    shutil.copy(FOLDER / "__init__.py", installed.packages / "anomalib_scrd" / "integration" / "startup.py")
    code = "import anomalib_scrd.integration.startup as s, anomalib_scrd_startup as t\n"
    code += "s.register_now_or_later(); s.start(); t.start()\n"
    assert silent(installed, code + WAITS) == "[True]"
    assert silent(installed, code + "import anomalib.models" + CALLS) == "['data', 'model']"
    assert silent(installed, "import anomalib.models, " + code.removeprefix("import ") + WAITS) == "[]"


@pytest.mark.parametrize("missing", ["anomalib", "anomalib_scrd"])
def test_there_is_no_message_without_the_package(installed: Interpreter, missing: str):
    shutil.rmtree(installed.packages / missing)
    assert silent(installed, WAITS) == "[True]"
    if missing == "anomalib_scrd":
        assert silent(installed, "import anomalib.models; print(anomalib.data.__all__)") == "['Folder']"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("__init__.py", "raise OSError('no luck')", "OSError: no luck"),
        ("__init__.py", "import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        (
            "integration/registration.py",
            "def register_data(): 1 / 0",
            "ZeroDivisionError: division by zero",
        ),
        ("lightning_model.py", "1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_package_warns_and_leaves_anomalib_alone(installed: Interpreter, file: str, text: str, reason: str):
    installed.write(f"anomalib_scrd/{file}", text)
    done = installed(f"import anomalib.models; print(anomalib.data.__all__)\n{WAITS}")
    assert done.stdout.splitlines() == ["['Folder']", "[]"]
    assert done.stderr.count("UserWarning") == 1
    assert f"anomalib_scrd is not available: {reason}" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_line_is_one_import():
    assert LINE == "import anomalib_scrd_startup\n"


def test_start_file_names_the_same_function(monkeypatch: pytest.MonkeyPatch):
    # Python 3.15 (PEP 829) reads this file and then ignores the line above.
    name = (FOLDER / "anomalib_scrd.start").read_text(encoding="utf-8").strip()
    monkeypatch.setitem(sys.modules, "anomalib_scrd_startup", startup)
    assert pkgutil.resolve_name(name) is startup.start
