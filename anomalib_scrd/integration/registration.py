"""Makes anomalib treat the plugin's classes like its own."""

__all__ = ["register", "register_data", "register_now_or_later"]

import sys
from importlib import import_module
from typing import Any

try:
    # A wheel has the start-up module beside the package and nowhere else.
    from anomalib_scrd_startup import install
except ImportError:  # a source tree that is on the path and not installed
    from anomalib_scrd.integration.startup import install

_MODELS = "anomalib.models"
_DATA = "anomalib.data"
_LIGHTNING_MODEL = "anomalib_scrd.lightning_model"
_DATA_MODULES = "anomalib_scrd.data"
_DATA_MODULE_NAMES = ("MedIAnomaly", "MedicalFolder", "PhantomSlices")


def register() -> None:
    """Enter the model where anomalib 2.7 looks classes up by name; a second call changes nothing.

    ``list_models``, the command line and ``get_model("name")`` see every imported direct subclass of
    ``AnomalibModule``. ``get_model({"class_path": ...})`` looks for an attribute of ``anomalib.models``, or of a module
    in its list of allowed ones.
    """
    half_imported = sys.modules.get(_LIGHTNING_MODEL)
    if half_imported is not None and not hasattr(half_imported, "ScaleAwareCRD"):
        return  # its import is what imported anomalib's models; it calls again when it is done

    # By name from sys.modules: this can run before the package `anomalib` has got its attributes.
    models: Any = import_module(_MODELS)
    from anomalib_scrd.lightning_model import ScaleAwareCRD

    models.ScaleAwareCRD = ScaleAwareCRD
    _list(models, "ScaleAwareCRD")
    models.ALLOWED_MODULES |= {"anomalib_scrd", _LIGHTNING_MODEL}
    # Imported for the command line: it knows data modules by the subclasses of `AnomalibDataModule`.
    import_module(_DATA_MODULES)


def register_data() -> None:
    """Enter the data modules where ``get_datamodule`` looks; a second call changes nothing.

    That is an attribute of ``anomalib.data``, which imports the data modules when it is asked for: they need what is
    registered here, and whoever wants another data module does not wait for them.
    """
    data: Any = import_module(_DATA)
    if getattr(getattr(data, "__getattr__", None), "__module__", None) == __name__:
        return
    otherwise = getattr(data, "__getattr__", None)

    def __getattr__(name: str) -> Any:  # noqa: N807  the hook of modules, PEP 562
        if name in _DATA_MODULE_NAMES:
            value = getattr(import_module(_DATA_MODULES), name)
            setattr(data, name, value)
            return value
        if otherwise is not None:
            return otherwise(name)
        msg = f"module {_DATA!r} has no attribute {name!r}"
        raise AttributeError(msg)

    data.__getattr__ = __getattr__
    _list(data, *_DATA_MODULE_NAMES)


def register_now_or_later() -> None:
    """Register with what has been imported of anomalib, and right after the import with what will be."""
    install()
    for name, function in ((_DATA, register_data), (_MODELS, register)):
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            function()


def _list(module: Any, *names: str) -> None:
    module.__all__ += [name for name in names if name not in module.__all__]
