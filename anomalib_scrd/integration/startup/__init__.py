"""Lets anomalib find the plugin: registers it right after `anomalib.data` and `anomalib.models` were imported.

An installation puts this file beside the package as `anomalib_scrd_startup.py` (a wheel has it only there), with
`anomalib_scrd.pth`, whose one line every start of the interpreter executes, in virtual environments twice. That line
costs a third of a millisecond: it puts a finder on `sys.meta_path` that sleeps until something of anomalib is imported
and then hands over to `start`. From Python 3.15 on, `anomalib_scrd.start` calls `start` itself at once. So this file
imports nothing but `sys`, and neither it nor the line prints or fails, whatever became of the package.
"""

import sys

# What is called in `anomalib_scrd.integration.registration` once this module of anomalib is there.
_FOLLOWED_BY = {"anomalib.data": "register_data", "anomalib.models": "register"}

# Those of them that are still to be imported.
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
        # From here on the module has its own loader again: whoever reloads or inspects it meets nothing of this.
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[attr-defined]
        self._loader.exec_module(module)  # type: ignore[attr-defined]
        name: str = module.__name__  # type: ignore[attr-defined]
        if name in _waiting:
            _waiting.remove(name)
            _register(_FOLLOWED_BY[name])
        if not _waiting:
            sys.meta_path[:] = [finder for finder in sys.meta_path if not hasattr(finder, "anomalib_scrd")]


def _register(function: str) -> None:
    try:
        from anomalib_scrd.integration import registration

        getattr(registration, function)()
    except Exception as error:  # noqa: BLE001  a broken plugin must not break anomalib
        _waiting.clear()  # what failed once is not tried, and told, again
        if not (isinstance(error, ModuleNotFoundError) and error.name == "anomalib_scrd"):
            import warnings

            warnings.warn(f"anomalib_scrd is not available: {type(error).__name__}: {error}", stacklevel=3)


class _Finder:
    """Waits on `sys.meta_path` for the imports that are followed by a registration, and then leaves."""

    # A mark rather than the class itself: the copy beside the package is another module with another class. The
    # finder that sleeps has another mark.
    anomalib_scrd = True

    @staticmethod
    def find_spec(name: str, path: "object" = None, target: "object" = None) -> "object":
        if name not in _waiting:
            return None
        # A look for the spec need not be an import: the finder stays until the module has been executed.
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


def install() -> "type[_Finder] | None":
    """Wait for those of the imports that are still to come; gives the finder where none was waiting."""
    if not any(map(_is_ours, sys.meta_path)):
        _waiting.update(name for name in _FOLLOWED_BY if name not in sys.modules)
        if _waiting:
            sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
            return _Finder
    return None


def start() -> "type[_Finder] | None":
    """Install, unless the environment variable ANOMALIB_SCRD_DISABLE is set (to anything but 0)."""
    from os import environ

    return install() if environ.get("ANOMALIB_SCRD_DISABLE", "0") in {"", "0"} else None
