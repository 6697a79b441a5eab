"""Scale-Aware Contrastive Reverse Distillation (Li et al., ICLR 2025) as a model plugin for anomalib.

Importing the package is cheap: it loads neither torch nor anomalib. Exported names are loaded on first access, and the
model is registered with anomalib as soon as anomalib's models are imported.
"""

__all__ = [
    "MedIAnomaly",
    "MedicalFolder",
    "MedicalPredictDataset",
    "PhantomSlices",
    "ScaleAwareCRD",
    "ScaleAwareCRDModel",
    "__version__",
]

from typing import TYPE_CHECKING, Any

from anomalib_scrd.integration import register_now_or_later

if TYPE_CHECKING:
    from anomalib_scrd.data import MedIAnomaly, MedicalFolder, MedicalPredictDataset, PhantomSlices
    from anomalib_scrd.lightning_model import ScaleAwareCRD
    from anomalib_scrd.torch_model import ScaleAwareCRDModel

    __version__: str

_EXPORTS = {
    "MedIAnomaly": "anomalib_scrd.data",
    "MedicalFolder": "anomalib_scrd.data",
    "MedicalPredictDataset": "anomalib_scrd.data",
    "PhantomSlices": "anomalib_scrd.data",
    "ScaleAwareCRD": "anomalib_scrd.lightning_model",
    "ScaleAwareCRDModel": "anomalib_scrd.torch_model",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        from importlib import import_module

        return getattr(import_module(_EXPORTS[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("anomalib-scrd")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS, "__version__"])


register_now_or_later()
