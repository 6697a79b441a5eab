"""Registers the plugin right after `anomalib.data` and `anomalib.models` are imported.

An installation puts this file next to the package as `anomalib_scrd_startup.py` (a wheel has it only there), with
`anomalib_scrd.pth`, whose one line imports it at every start of the interpreter. It imports only `sys` and puts a
finder on `sys.meta_path` that waits for these two imports. From Python 3.15 on, `anomalib_scrd.start` calls `start`
instead of the line.
"""

import sys

# By module of anomalib: the plugin's module that is imported after it, and the function that is then called. The
# module of the model registers the model on import.
_FOLLOWED_BY = {
    "anomalib.data": ("anomalib_scrd.integration.registration", "register_data"),
    "anomalib.models": ("anomalib_scrd.lightning_model", ""),
}

# Deprecation warnings of timm and anomalib about imports of anomalib 2.7 itself, which a user cannot change.
_IGNORED_WARNINGS = (
    "Importing from timm.models.layers is deprecated",
    "The anomalib.models.components.dinov2 package is deprecated",
)

# Modules of anomalib that are not yet imported.
_waiting: "set[str]" = set()


class _Loader:
    """The loader of one of anomalib's modules, followed by the registration of the plugin."""

    def __init__(self, loader: "object") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> "object":
        return getattr(self._loader, name)

    def create_module(self, spec: "object") -> "object":
        return self._loader.create_module(spec)  # type: ignore[attr-defined]

    def exec_module(self, module: "object") -> None:
        # The module's own loader is restored first, for code that reloads or inspects it.
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[attr-defined]
        _silence()
        self._loader.exec_module(module)  # type: ignore[attr-defined]
        name: str = module.__name__  # type: ignore[attr-defined]
        if name in _waiting:
            _waiting.remove(name)
            _follow(name)
        if not _waiting:
            sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_ours(finder)]


def _silence() -> None:
    """Ignore warnings about anomalib's imports, permanently: `catch_warnings` would undo filters set meanwhile."""
    import warnings

    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message, FutureWarning)


def _follow(name: str) -> None:
    """Register the plugin's classes for an imported module of anomalib."""
    try:
        from importlib import import_module

        module, function = _FOLLOWED_BY[name]
        imported = import_module(module)
        if function:
            getattr(imported, function)()
    except Exception as error:  # noqa: BLE001  a broken plugin must not break anomalib
        _waiting.clear()  # a failure is neither repeated nor reported again
        if not (isinstance(error, ModuleNotFoundError) and error.name == "anomalib_scrd"):
            import warnings

            warnings.warn(f"anomalib_scrd is not available: {type(error).__name__}: {error}", stacklevel=3)


class _Finder:
    """Waits on `sys.meta_path` for the imports that trigger a registration, and then removes itself."""

    # A marker instead of an isinstance check: the copy next to the package is another module with another class.
    anomalib_scrd = True

    @staticmethod
    def find_spec(name: str, path: "object" = None, target: "object" = None) -> "object":
        if name not in _waiting:
            return None
        # The spec can be searched without an import, so the finder stays until the module has been executed.
        for finder in sys.meta_path:
            find_spec = None if _is_ours(finder) else getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


def _is_ours(finder: "object") -> bool:
    return getattr(finder, "anomalib_scrd", False) is True


def start() -> None:
    """Wait for the imports, unless the environment variable ANOMALIB_SCRD_DISABLE is set (to anything but 0)."""
    from os import environ

    if environ.get("ANOMALIB_SCRD_DISABLE", "0") in {"", "0"}:
        _wait()


def register_now_or_later() -> None:
    """Register with modules of anomalib that are imported now, and with the others right after their import."""
    _wait()
    for name in _FOLLOWED_BY:
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _follow(name)


def _wait() -> None:
    if not any(map(_is_ours, sys.meta_path)):
        _waiting.update(name for name in _FOLLOWED_BY if name not in sys.modules)
        if _waiting:
            sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]


start()
