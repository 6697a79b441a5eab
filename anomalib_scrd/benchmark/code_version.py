"""Which code a result was made with."""

__all__ = ["code_digest"]

import ast
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path


def code_digest(class_path: str) -> str:
    """Digest of the code that a class comes from: changes with the code of its package, not with comments or docs.

    Args:
        class_path: Import path of the class.

    Returns:
        Version of the distribution for anomalib's own classes, otherwise eight hexadecimal digits; empty if the
        sources can't be read.
    """
    package = class_path.partition(".")[0]
    if package == "anomalib" or "." not in class_path:
        return f"anomalib {importlib.metadata.version('anomalib')}"
    spec = importlib.util.find_spec(package)
    if spec is None:
        return ""
    if spec.submodule_search_locations:
        roots = [Path(folder) for folder in spec.submodule_search_locations]
        files = [(file.relative_to(root).as_posix(), file) for root in roots for file in sorted(root.rglob("*.py"))]
    else:
        files = [(package, Path(spec.origin))] if spec.origin else []
    digest = hashlib.sha256()
    own = (__package__ or "").partition(".")
    for name, file in files:
        if package == own[0] and name.startswith(f"{own[2]}/") and not name.endswith("baselines.py"):
            continue  # the instrument is not what it measures
        digest.update(name.encode())
        digest.update(_without_docs(file.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:8]


def _without_docs(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)
