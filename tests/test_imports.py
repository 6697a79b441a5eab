"""The import graph of the package: no circles, and no import of the benchmark from outside."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "anomalib_scrd"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / NAME).rglob("*.py"))
}


def _statements(node: ast.AST) -> list[ast.Import | ast.ImportFrom]:
    """Import statements that run when a module is imported: none within functions, none for type checkers."""
    found: list[ast.Import | ast.ImportFrom] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            found.append(child)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            found += [statement for part in child.orelse for statement in _statements(ast.Module([part], []))]
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found += _statements(child)
    return found


def _imported(statement: ast.Import | ast.ImportFrom) -> set[str]:
    """Modules of the package that a statement names."""
    if isinstance(statement, ast.Import):
        names = {alias.name for alias in statement.names}
    else:
        module = statement.module or ""
        names = {module} | {f"{module}.{alias.name}" for alias in statement.names}
    return names & MODULES.keys()


@cache
def _needs(name: str) -> frozenset[str]:
    """Modules that the import of one executes by its own statements; packages above it count as executed already."""
    statements = _statements(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    found = set().union(*map(_imported, statements)) - {name}
    return frozenset(other for other in found if not name.startswith(f"{other}."))


def _circle() -> list[str]:
    """Modules that import each other in a circle, in order; empty without one."""
    done: set[str] = set()

    def search(name: str, above: list[str]) -> list[str]:
        if name in above:
            return above[above.index(name) :]
        if name in done:
            return []
        found = next((circle for other in sorted(_needs(name)) if (circle := search(other, [*above, name]))), [])
        done.add(name)
        return found

    return next((circle for name in MODULES if (circle := search(name, []))), [])


def test_no_circular_imports() -> None:
    assert _circle() == []


def test_a_circle_would_be_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(f"from {NAME} import second_of_test\n")
    second.write_text(f"if True:\n    import {NAME}.first_of_test\n")
    monkeypatch.setitem(MODULES, f"{NAME}.first_of_test", first)
    monkeypatch.setitem(MODULES, f"{NAME}.second_of_test", second)
    assert set(_circle()) == {f"{NAME}.first_of_test", f"{NAME}.second_of_test"}


@pytest.mark.parametrize("room", ["anomalib_scrd", "tests", "examples"])
def test_nothing_outside_imports_the_benchmark(room: str) -> None:
    # Its own tests, those that kill processes, including benchmarks, and those for a GPU.
    own = (ROOT / NAME / "benchmark", *(ROOT / "tests" / name for name in ("benchmark", "trust", "gpu")))
    for path in sorted((ROOT / room).rglob("*.py")):
        if not any(path.is_relative_to(folder) for folder in own):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = _imported(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else set()
                assert not any(name.startswith(f"{NAME}.benchmark") for name in names), path


def test_the_edge_distribution_holds_all_that_it_imports() -> None:
    """Statements within functions included; its own test installs it, which needs a registry."""
    held = ("edge", "imaging", "atomic_files")
    for name, path in MODULES.items():
        if name.split(".")[1:2] in [[room] for room in held]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = _imported(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else set()
                assert {other.split(".")[1] for other in names if "." in other} <= set(held), path
