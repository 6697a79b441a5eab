"""The models whose steps and predictions are timed."""

__all__ = ["BASELINE", "EDGE", "FORMS", "TIMM_BASELINE", "build_baseline", "build_form"]

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from anomalib.models import ReverseDistillation
from anomalib.models.components import AnomalibModule

from anomalib_scrd.benchmark.baselines import TimmReverseDistillation
from anomalib_scrd.benchmark.speed.config import SpeedConfig
from anomalib_scrd.benchmark.speed.timing import reason
from anomalib_scrd.lightning_model import ScaleAwareCRD
from anomalib_scrd.presets import PRESETS

BASELINE = "anomalib ReverseDistillation"
TIMM_BASELINE = "anomalib ReverseDistillation, timm backbone"

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {"preset": "published"},
    "contrast": {"loss": {"contrast": 0.1}},
}
"""Forms of the loss by name: arguments of ScaleAwareCRD that differ from the default ones."""

EDGE: dict[str, Any] = {"preset": "edge", "backbone": PRESETS["edge"].backbone}
"""configs/model/edge.yaml."""


def build_form(config: SpeedConfig, arguments: Mapping[str, Any], **changes: Any) -> ScaleAwareCRD:
    """Build a ScaleAwareCRD.

    Args:
        config: Backbone, layers, size, weights and seed.
        arguments: Arguments of the model that differ from the default ones. Another ``backbone`` has ``layers`` of its
            own.
        changes: ``backbone``, ``layers`` or ``image_size`` in place of the configured ones.

    Returns:
        The model, on the CPU.
    """
    torch.manual_seed(config.seed)
    layers = None if "backbone" in arguments else config.layers
    settings = {"backbone": config.backbone, "layers": layers, "image_size": config.image_size, **arguments, **changes}
    size = settings.pop("image_size")
    return ScaleAwareCRD(
        **settings,
        pre_trained=config.pre_trained,
        seed=config.seed,
        pre_processor=ScaleAwareCRD.configure_pre_processor(size),
        evaluator=False,
        visualizer=False,
    )


def build_baseline(config: SpeedConfig, like: ScaleAwareCRD) -> tuple[str, AnomalibModule, str]:
    """Build anomalib's ReverseDistillation, or what comes nearest to it with the backbone.

    anomalib's own class knows ResNets only. For other backbones its loss, optimiser and map are kept, and bottleneck
    and decoder are those of a ScaleAwareCRD: then a comparison with that one shows nothing but the rest.

    Args:
        config: Backbone, size, weights and seed.
        like: Model with the same backbone; it has the layers, and the bottleneck and student of the stand-in.

    Returns:
        Name and model, and why it is not anomalib's own, empty if it is.
    """
    layers: Sequence[str] = like.model.teacher.layers
    common: dict[str, Any] = {
        "backbone": config.backbone,
        "layers": list(layers),
        "pre_trained": bool(config.pre_trained),
        "pre_processor": ReverseDistillation.configure_pre_processor(config.image_size),
        "evaluator": False,
        "visualizer": False,
    }
    torch.manual_seed(config.seed)
    try:
        own = ReverseDistillation(**common)
        # It builds with any layers and stops at the first image where the channels do not fit.
        with torch.no_grad():
            own.model.train()(torch.zeros(2, 3, *config.image_size))
    except Exception as error:  # noqa: BLE001  (whatever it raises says why it does not fit)
        why = reason(error)
    else:
        return BASELINE, own, ""
    stand_in: Any = TimmReverseDistillation(**common)
    stand_in.model.bottleneck.embed = copy.deepcopy(like.model.bottleneck)
    stand_in.model.decoder.student = copy.deepcopy(like.model.student)
    return TIMM_BASELINE, stand_in, why
