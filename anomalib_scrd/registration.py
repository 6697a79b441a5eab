"""Makes anomalib treat the plugin's classes like its own."""

__all__ = ["register", "register_now_or_later"]

import sys
from importlib import import_module
from typing import Any

from anomalib_scrd.startup import install

_MODELS = "anomalib.models"
_LIGHTNING_MODEL = "anomalib_scrd.lightning_model"


def register() -> None:
    """Enter model and data modules where anomalib 2.7 looks classes up by name; a second call changes nothing.

    ``list_models``, the command line and ``get_model("name")`` see every imported direct subclass of
    ``AnomalibModule``. ``get_model({"class_path": ...})`` looks for an attribute of ``anomalib.models``, or of a module
    in its list of allowed ones; ``get_datamodule`` for an attribute of ``anomalib.data``.
    """
    half_imported = sys.modules.get(_LIGHTNING_MODEL)
    if half_imported is not None and not hasattr(half_imported, "ScaleAwareCRD"):
        return  # its import is what imported anomalib's models; it calls again when it is done

    # By name from sys.modules: this can run before the package `anomalib` has got its attributes.
    models: Any = import_module(_MODELS)
    data: Any = import_module("anomalib.data")
    from anomalib_scrd.data import MedIAnomaly, PhantomSlices
    from anomalib_scrd.lightning_model import ScaleAwareCRD

    for module, classes in ((models, (ScaleAwareCRD,)), (data, (PhantomSlices, MedIAnomaly))):
        for cls in classes:
            setattr(module, cls.__name__, cls)
            if cls.__name__ not in module.__all__:
                module.__all__.append(cls.__name__)
    models.ALLOWED_MODULES |= {"anomalib_scrd", _LIGHTNING_MODEL}


def register_now_or_later() -> None:
    """Register at once where `anomalib.models` has been imported, else right after it will be."""
    models = sys.modules.get(_MODELS)
    if models is None:
        install()
    elif not getattr(models.__spec__, "_initializing", False):
        register()
