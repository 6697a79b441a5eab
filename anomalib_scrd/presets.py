"""Values of all arguments by preset; they are defined only here."""

__all__ = ["PRESETS", "Preset", "PresetName", "resolved", "without_effect"]

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from anomalib_scrd.options import (
    LossOptions,
    NoiseOptions,
    OptimiserOptions,
    ScoringOptions,
    StudentOptions,
)

PresetName = Literal["default", "published", "edge"]


@dataclass(frozen=True)
class Preset:
    """A value for every argument that has a default in the preset."""

    backbone: str
    student: StudentOptions
    loss: LossOptions
    noise: NoiseOptions
    scoring: ScoringOptions
    optimiser: OptimiserOptions


_DEFAULT = Preset(
    backbone="wide_resnet50_2",
    student=StudentOptions(block="auto", depth="auto", feature_scaling="whiten", places=8, image_side=128),
    loss=LossOptions(pull=1.0, restore=1.0, contrast=0.3, ratio=0.0),
    noise=NoiseOptions(
        kind="mixed",
        share=0.375,
        strength=(0.2, 0.5),
        size=(0.03, 0.5),
        period=0.125,
        octaves=6,
        persistence=0.6,
    ),
    scoring=ScoringOptions(scale_adaptation="fitted", held_out=0.1, damping=10.0, sigma=2.0, prototypes=256),
    optimiser=OptimiserOptions(
        learning_rate=5e-3,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        schedule="cosine",
        warmup_steps=50,
        fill_last_batch=True,
    ),
)

# Li et al., ICLR 2025: only the ratio, weights of the scales that minimise it, one small patch of simplex noise in
# every image, a map that is not standardised and its mean as the score.
_PUBLISHED = Preset(
    backbone="wide_resnet50_2",
    student=StudentOptions(block="bottleneck", depth=(3, 4, 6), feature_scaling="none", places=0, image_side=0),
    loss=LossOptions(pull=0.0, restore=0.0, contrast=0.0, ratio=1.0),
    noise=NoiseOptions(
        kind="simplex",
        share=1.0,
        strength=0.2,
        size=(10 / 256, 31 / 256),
        period=32 / 256,
        octaves=6,
        persistence=0.6,
    ),
    scoring=ScoringOptions(scale_adaptation="published", held_out=0.0, damping=0.0, sigma=4.0, prototypes=0),
    optimiser=OptimiserOptions(
        learning_rate=1e-3,
        betas=(0.5, 0.999),
        weight_decay=0.0,
        schedule="none",
        warmup_steps=0,
        fill_last_batch=False,
    ),
)

# A small teacher and a small student, for computers without an accelerator.
_EDGE = dataclasses.replace(
    _DEFAULT,
    backbone="tf_efficientnet_lite0",
    student=dataclasses.replace(_DEFAULT.student, block="basic", depth=1),
)

PRESETS: dict[str, Preset] = {"default": _DEFAULT, "published": _PUBLISHED, "edge": _EDGE}


def resolved(preset: str = "default", backbone: str | None = None, **groups: Any) -> Preset:
    """Replace values of a preset by given ones.

    Args:
        preset: Name of the preset.
        backbone: Name of a backbone; None for the preset's.
        **groups: The groups by name, each of a kind that :meth:`~anomalib_scrd.options.Options.of` takes.

    Returns:
        A value for every field.

    Raises:
        ValueError: If the preset or a field is unknown, or a value is not allowed.
    """
    if preset not in PRESETS:
        msg = f"preset must be one of {get_args(PresetName)}, got {preset!r}"
        raise ValueError(msg)
    base = PRESETS[preset]
    chosen: dict[str, Any] = {}
    for name, value in groups.items():
        values = getattr(base, name)
        chosen[name] = type(values).of(value).over(values).checked()
    if backbone is not None:
        chosen["backbone"] = backbone
    return dataclasses.replace(base, **chosen)


# Fields that have no effect unless the other arguments meet a condition.
_CONDITIONS: tuple[tuple[str, tuple[str, ...], Callable[[Preset], Any], str], ...] = (
    (
        "noise",
        tuple(field.name for field in dataclasses.fields(NoiseOptions)),
        lambda c: c.loss.restore or c.loss.contrast or c.loss.ratio,
        "no term of the loss needs synthetic anomalies; give loss.restore, contrast or ratio a weight above 0",
    ),
    (
        "noise",
        ("persistence",),
        lambda c: c.noise.octaves != 1,
        "noise.octaves is 1",
    ),
    (
        "scoring",
        ("prototypes",),
        lambda c: c.scoring.scale_adaptation != "published",
        "scoring.scale_adaptation is published",
    ),
    (
        "optimiser",
        ("warmup_steps",),
        lambda c: c.optimiser.schedule == "cosine",
        "only optimiser.schedule cosine has a warm-up",
    ),
)


def without_effect(preset: str, chosen: Preset) -> list[tuple[str, str]]:
    """List values that differ from the preset's and have no effect in this combination.

    Args:
        preset: Name of the preset.
        chosen: All values, as :func:`resolved` gives them.

    Returns:
        The name of each, as ``group.field``, and the reason.
    """
    found: dict[str, str] = {}
    for group, names, met, reason in _CONDITIONS:
        before, now = getattr(PRESETS[preset], group).as_dict(), getattr(chosen, group).as_dict()
        if not met(chosen):
            for name in names:
                if now[name] != before[name]:
                    found.setdefault(f"{group}.{name}", reason)
    return list(found.items())
