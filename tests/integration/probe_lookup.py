"""Looks up the plugin's classes in every way that anomalib has, and prints the outcome of each as JSON.

Run by test_lookup.py in an interpreter of its own: it never imports `anomalib_scrd`, and its first import is
`anomalib.data`, the one that comes without anomalib's models.
"""

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

ARGUMENTS = {"backbone": "resnet18", "pre_trained": False, "optimiser": {"learning_rate": 0.02, "betas": [0.5, 0.9]}}
NAMES = ("scale_aware_crd", "ScaleAwareCRD", "scale_aware_c_r_d")
CLASS_PATHS = ("ScaleAwareCRD", "anomalib_scrd.ScaleAwareCRD", "anomalib.models.ScaleAwareCRD")
DATA = {
    "PhantomSlices": {"root": "drawn", "image_size": [64, 48], "n_train": 3},
    "MedIAnomaly": {"root": "mine", "name": "RSNA"},
}

outcomes: dict[str, Any] = {}


def look(label: str, function: Callable[[], Any]) -> None:
    """Note the function's result, or its error."""
    try:
        outcomes[label] = function()
    except (Exception, SystemExit) as error:  # noqa: BLE001  every look-up is reported
        outcomes[label] = f"{type(error).__name__}: {error}"


def seen(model: Any) -> list[Any]:
    """What tells that this is the model and that it got the arguments."""
    return [
        type(model).__module__,
        type(model).__name__,
        *(model.hparams["optimiser"][name] for name in ("learning_rate", "betas")),
    ]


def main() -> None:
    """Look everything up."""
    from anomalib.data import get_datamodule
    from jsonargparse import Namespace
    from omegaconf import OmegaConf

    outcomes["early"] = sorted(
        {"anomalib.models", "anomalib_scrd.data", "anomalib_scrd.lightning_model"} & set(sys.modules)
    )
    forms: dict[str, Callable[[dict], Any]] = {
        "dict": dict,
        "omegaconf": OmegaConf.create,
        "namespace": lambda spec: Namespace(**(spec | {"init_args": Namespace(**spec["init_args"])})),
        "namespace of dict": lambda spec: Namespace(**spec),
        "under data": lambda spec: {"data": spec},
    }
    for name, arguments in DATA.items():
        for path in (name, f"anomalib_scrd.{name}"):
            spec = {"class_path": path, "init_args": arguments}
            for form, build in forms.items():
                look(f"{path} {form}", lambda b=build, s=spec: str(get_datamodule(b(s)).root))
    outcomes["data before models"] = "anomalib.models" not in sys.modules

    from anomalib.models import AnomalibModule, get_model, list_models

    outcomes["registered with models"] = sorted(
        {"anomalib_scrd.data", "anomalib_scrd.lightning_model"} & set(sys.modules)
    )
    outcomes["listed"] = [list_models(case) for case in ("snake", "pascal", "title")]
    outcomes["listed"] = [sorted(name for name in names if "scale" in name.lower()) for names in outcomes["listed"]]
    outcomes["subclasses"] = [c.__module__ for c in AnomalibModule.__subclasses__() if c.__name__ == "ScaleAwareCRD"]
    for name in NAMES:
        look(f"{name} name", lambda n=name: seen(get_model(n, **ARGUMENTS)))
    del forms["under data"]
    for path in CLASS_PATHS:
        spec = {"class_path": path, "init_args": ARGUMENTS}
        for form in forms if path == "ScaleAwareCRD" else ("dict",):  # each look-up builds a model
            look(f"{path} {form}", lambda b=forms[form], s=spec: seen(get_model(b(s))))
    for form in ("dict", "omegaconf"):
        spec = {"class_path": "ScaleAwareCRD", "init_args": ARGUMENTS}
        look(
            f"{form} and more",
            lambda b=forms[form], s=spec: get_model(b(s), scoring={"sigma": 1.5}).hparams["scoring"]["sigma"],
        )
    look("no init_args", lambda: seen(get_model({"class_path": "ScaleAwareCRD"}, **ARGUMENTS)))

    from anomalib.cli import AnomalibCLI

    for name, arguments in DATA.items():
        for path in (name, f"anomalib_scrd.{name}"):
            command = ["test", "--model", "Padim", "--model.backbone", "resnet18", "--model.pre_trained", "false"]
            command += ["--data", path, *(f"--data.{key}={value}" for key, value in arguments.items())]
            look(f"{path} command line", lambda c=command: str(AnomalibCLI(c, run=False).datamodule.root))


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main()
    outcomes["warnings"] = [str(warning.message) for warning in caught if "scrd" in str(warning.message)]
    sys.stdout.write(f"\noutcomes {json.dumps(outcomes)}\n")
