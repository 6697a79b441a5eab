"""Registers the plugin's classes with anomalib."""

__all__ = ["register", "register_data"]

from importlib import import_module
from typing import Any

_MODELS = "anomalib.models"
_DATA = "anomalib.data"
_DATA_MODULES = "anomalib_scrd.data"
_DATA_MODULE_NAMES = ("MedIAnomaly", "MedicalFolder", "PhantomSlices")


def register(model: type) -> None:
    """Register a model where anomalib 2.7 looks up classes by name; a second call has no effect.

    ``list_models``, the command line and ``get_model("name")`` find every imported direct subclass of
    ``AnomalibModule``. ``get_model({"class_path": ...})`` looks for an attribute of ``anomalib.models``, or of a module
    in its list of allowed ones.

    Args:
        model: The class. Its module calls this function at its end.
    """
    # By name from sys.modules: this can run before the attributes of the package `anomalib` are set.
    models: Any = import_module(_MODELS)
    setattr(models, model.__name__, model)
    _list(models, model.__name__)
    models.ALLOWED_MODULES |= {"anomalib_scrd", model.__module__}
    # Imported for the command line, which finds data modules as subclasses of `AnomalibDataModule`.
    import_module(_DATA_MODULES)


def register_data() -> None:
    """Register the data modules where ``get_datamodule`` looks; a second call has no effect.

    The data modules become lazy attributes of ``anomalib.data``: they need the names registered here, and imports of
    other data modules stay fast.
    """
    data: Any = import_module(_DATA)
    otherwise = getattr(data, "__getattr__", None)
    if getattr(otherwise, "__module__", None) == __name__:
        return

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


def _list(module: Any, *names: str) -> None:
    module.__all__ += [name for name in names if name not in module.__all__]
