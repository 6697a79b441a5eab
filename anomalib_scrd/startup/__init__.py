"""Lets anomalib find the plugin: registers it right after `anomalib.models` was imported.

An installation puts a copy of this file, `anomalib_scrd_startup.py`, beside the package, and every start of the
interpreter calls its `start` (through `anomalib_scrd.pth`; from Python 3.15 on through `anomalib_scrd.start`). So it
imports nothing but `sys`, does next to nothing, and neither prints nor fails, whatever became of the package.
"""

import sys

_TARGET = "anomalib.models"


class _Loader:
    """The loader of `anomalib.models`, followed by the registration of the plugin."""

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
        try:
            from anomalib_scrd.registration import register

            register()
        except Exception as error:  # noqa: BLE001  a broken plugin must not break anomalib
            import warnings

            warnings.warn(f"anomalib_scrd is not available: {type(error).__name__}: {error}", stacklevel=2)


class _Finder:
    """Waits on `sys.meta_path` for one import and then leaves."""

    # A mark rather than the class itself: the copy beside the package is another module with another class.
    anomalib_scrd = True

    @staticmethod
    def find_spec(name: str, path: "object" = None, target: "object" = None) -> "object":
        if name != _TARGET:
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_ours(finder)]
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


def _is_ours(finder: "object") -> bool:
    return getattr(finder, "anomalib_scrd", False) is True


def install() -> None:
    """Wait for the import of `anomalib.models`."""
    if not any(map(_is_ours, sys.meta_path)):
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]


def start() -> None:
    """Install, unless the environment variable ANOMALIB_SCRD_DISABLE is set (to anything but 0)."""
    from os import environ

    if environ.get("ANOMALIB_SCRD_DISABLE", "0") in {"", "0"}:
        install()
