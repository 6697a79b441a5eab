"""Groups of the model's arguments: their fields, allowed values and checks.

A field that is left out has the preset's value (:mod:`anomalib_scrd.presets`). A new option needs a field here, its
value in each preset, and a parameter of that name in the class that takes the group:

============== =====================================================================
``student``    :class:`~anomalib_scrd.torch_model.ScaleAwareCRDModel`
``loss``       :class:`~anomalib_scrd.loss.ScaleAwareContrastiveLoss`
``noise``      :class:`~anomalib_scrd.noise.SyntheticAnomalies` (all but ``share``)
``scoring``    :class:`~anomalib_scrd.scoring.map_and_score.MapAndScore` (all but ``held_out``)
============== =====================================================================
"""

__all__ = [
    "GROUPS",
    "RENAMED",
    "GroupValue",
    "LossOptions",
    "NoiseOptions",
    "OptimiserOptions",
    "Options",
    "RenamedArguments",
    "ScoringOptions",
    "StudentOptions",
    "number",
    "over_saved",
    "plain",
    "refuse_renamed",
    "switch",
    "whole_number",
]

import dataclasses
import difflib
import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
from typing_extensions import NotRequired, Self, TypedDict

from anomalib_scrd.components.blocks import BlockKind
from anomalib_scrd.components.feature_standardisation import FeatureScaling
from anomalib_scrd.scoring.map_and_score import ScaleAdaptationMode

GroupValue = dict[str, Any] | str | None
"""Other values of a group's argument: a dict of fields. A string, as ``noise`` was in earlier versions, is refused."""

Check = Callable[[str, Any], Any]


# --- checks -----------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Convert a value to types that a weights-only checkpoint can hold.

    Args:
        value: A number, string, path, or a sequence of them of any kind (OmegaConf's lists, tuples, ranges, arrays).

    Returns:
        NumPy scalars as Python numbers, paths as strings, sequences as lists; anything else unchanged.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (Sequence, range, np.ndarray)) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def _fail(name: str, allowed: str, value: Any) -> None:
    msg = f"{name} must be {allowed}, got {value!r}"
    raise ValueError(msg)


def _is_number(value: Any, *, whole: bool = False) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class _Number:
    """Check that a value is a finite number in an interval; integers for whole numbers."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    whole: bool = False

    def __str__(self) -> str:
        kind = "whole" if self.whole else "finite"
        return f"a {kind} number in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"

    def fits(self, value: Any) -> bool:
        return (
            _is_number(value, whole=self.whole)
            and (value > self.low if self.above else value >= self.low)
            and (value < self.high if self.below else value <= self.high)
        )

    def __call__(self, name: str, value: Any) -> Any:
        if not self.fits(value):
            _fail(name, str(self), value)
        return value if self.whole else float(value)


@dataclass(frozen=True)
class _Range:
    """Check that a value is a number in an interval, or two of them in order."""

    number: _Number

    def __call__(self, name: str, value: Any) -> Any:
        values = value if isinstance(value, list) else [value, value]
        if len(values) != 2 or not all(map(self.number.fits, values)) or values[0] > values[1]:  # noqa: PLR2004
            _fail(name, f"{self.number}, or two of them in order", value)
        return value


def _depth(name: str, value: Any) -> Any:
    number = _Number(1, 100, whole=True)
    if value != "auto" and not all(map(number.fits, value if isinstance(value, list) and value else [value])):
        _fail(name, f"auto, {number}, or one of them for each scale", value)
    return value


def _places(name: str, value: Any) -> Any:
    return _limit(name, value, 2, 1000)


def _image_side(name: str, value: Any) -> Any:
    return _limit(name, value, 64, 10_000)


def _limit(name: str, value: Any, low: int, high: int) -> Any:
    """Check that a value is 0 or a whole number in [low, high]."""
    number = _Number(low, high, whole=True)
    if value != 0 and not number.fits(value):
        _fail(name, f"0 or {number}", value)
    return value


def _betas(name: str, value: Any) -> Any:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_Number(0, 1, below=True).fits, value)):  # noqa: PLR2004
        _fail(name, "two numbers in [0, 1)", value)
    return [float(beta) for beta in value]


def switch(name: str, value: Any, *words: str) -> Any:
    """Check that a value is true or false, or one of some words.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, bool) and value not in words:
        _fail(name, " or ".join(["true, false" if words else "true or false", *words]), value)
    return value


def number(name: str, value: Any, *, low: float, high: float) -> float:
    """Check that a value is a finite number in [low, high].

    Raises:
        ValueError: If it is not.
    """
    return _Number(low, high)(name, value)


def whole_number(name: str, value: Any, *, low: int, high: int) -> int:
    """Check that a value is a whole number in [low, high].

    Raises:
        ValueError: If it is not.
    """
    if not _is_number(value, whole=True) or not low <= value <= high:
        _fail(name, f"a whole number in [{low}, {high}]", value)
    return value


def _choice(allowed: Sequence[str]) -> Check:
    def check(name: str, value: Any) -> Any:
        if value not in allowed:
            _fail(name, f"one of {tuple(allowed)}", value)
        return value

    return check


def _option(check: Check) -> Any:
    return dataclasses.field(default=None, metadata={"check": check})


def _number(low: float, high: float, *, above: bool = False) -> Any:
    return _option(_Number(low, high, above=above))


def _whole(low: int, high: int) -> Any:
    return _option(_Number(low, high, whole=True))


# --- groups -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """A group of arguments; a field that is None has the preset's value.

    Values are checked when a model is built: the command line would hide a message raised here.
    """

    group: ClassVar[str]

    def __post_init__(self) -> None:
        """Convert the values to plain types."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))

    def checked(self) -> Self:
        """This group with its values checked, and numbers of the right kind.

        Raises:
            ValueError: If a value is not allowed; the message names group, field, value and what is allowed.
        """
        hints = get_type_hints(type(self))
        values = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                check = field.metadata.get("check") or _check_of(hints[field.name])
                values[field.name] = check(f"{self.group}.{field.name}", value)
        return dataclasses.replace(self, **values)

    @classmethod
    def of(cls, value: Any) -> Self:
        """Build a group from a value of a user or a configuration.

        Args:
            value: The group itself, a mapping of its fields, a namespace, or None.

        Returns:
            The group.

        Raises:
            ValueError: If the value is of another kind or names an unknown field.
        """
        if isinstance(value, cls):
            return value
        names = [field.name for field in dataclasses.fields(cls)]
        given = {} if value is None else vars(value) if isinstance(value, Namespace) else value
        if not isinstance(given, Mapping):
            hint = "; the former noise is now noise.kind" if cls.group == "noise" else ""
            _fail(cls.group, f"a group of {', '.join(names)}{hint}", value)
        for name in given:
            if name not in names:
                close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(f'{cls.group}.{match}' for match in close)}? " if close else ""
                msg = f"{cls.group}.{name} is unknown; {hint}{cls.group} has {', '.join(names)}"
                raise ValueError(msg)
        return cls(**given)

    def over(self, preset: Self) -> Self:
        """This group with the preset's values in the fields that are None."""
        return dataclasses.replace(preset, **self.given())

    def given(self) -> dict[str, Any]:
        """The fields that are not None."""
        return {name: value for name, value in self.as_dict().items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """All fields, as a dict of numbers, strings and lists."""
        return dataclasses.asdict(self)


def _check_of(hint: Any) -> Check:
    """The check for the type hint of a choice or a switch."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if kinds == [bool]:
        return switch
    choices = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return _choice(choices)


@dataclass(frozen=True)
class StudentOptions(Options):
    """The student and its target.

    Args:
        block: Blocks of bottleneck and student. ``auto`` (default) takes bottleneck blocks, as RD4AD does,
            where the coarsest map of the teacher has 512 channels or more, else basic ones; ``separable`` is the
            cheapest.
        depth: Blocks per scale, coarsest first, or one number for all, in [1, 100]; ``auto`` (default) for
            (3, 4, 6, 6, ...) bottleneck blocks as in RD4AD, or 1 of the others. The first number also applies to the
            bottleneck.
        feature_scaling: The teacher's features that the student predicts and that are compared: with each channel
            standardised on normal images and half of what the channels share taken out (``whiten``, default), only
            standardised (``channel``), or unchanged (``none``, published).
        places: Largest side of the fused map, in positions, before it is halved into the embedding, in [2, 1000]: the
            map of a larger image is averaged to this size. Default 8; 0 for no limit (published).
        image_side: Side of a square in pixels, in [64, 10000]: images with more pixels than it are averaged down to as
            many before the teacher; maps keep the image's size. Default 128; 0 for no limit (published). Large images
            with small anomalies should be tiled.
    """

    group: ClassVar[str] = "student"

    block: Literal["auto"] | BlockKind | None = None
    depth: Literal["auto"] | int | Sequence[int] | None = _option(_depth)
    feature_scaling: FeatureScaling | None = None
    places: int | None = _option(_places)
    image_side: int | None = _option(_image_side)


@dataclass(frozen=True)
class LossOptions(Options):
    """Weights of the terms of the loss, each in [0, 1000].

    Args:
        pull: Weight of the distance between the student and the teacher, both on the clean image. Default 1.
        restore: Weight of the distance between the student on the image with a synthetic anomaly and the teacher on the
            clean one. Default 1.
        contrast: Weight of the contrast at places: at the places of the anomaly, the student on the image with the
            anomaly must be nearer to the clean teacher than to the noisy one. Default 0.3.
        ratio: Weight of the published contrast, the ratio of the student's distances to the clean and to the noisy
            teacher, with the student on the clean image. Default 0.
    """

    group: ClassVar[str] = "loss"

    pull: float | None = _number(0, 1000)
    restore: float | None = _number(0, 1000)
    contrast: float | None = _number(0, 1000)
    ratio: float | None = _number(0, 1000)


@dataclass(frozen=True)
class NoiseOptions(Options):
    """Synthetic anomalies for the terms of the loss that need them (all but ``loss.pull``).

    Args:
        kind: ``mixed`` (default) for four kinds (simplex noise, pasted patches, altered ellipses, foreign textures), or
            ``simplex`` for the published one.
        share: Images with synthetic anomalies per clean image of a batch, in (0, 1], at least one image. Default 0.375;
            1 is published.
        strength: Factor of the simplex noise in units of an image in [0, 1], or a range (low, high); in [0, 100].
            Default (0.2, 0.5).
        size: Smallest and largest extent of an anomaly relative to the image, in (0, 1]. Default (0.03, 0.5).
        period: Period of the noise's coarsest octave relative to the image's height, in (0, 100]. Default 0.125.
        octaves: Number of octaves of the noise, in [1, 16]. Default 6.
        persistence: Amplitude of an octave relative to the one before, in (0, 10]. Default 0.6.
    """

    group: ClassVar[str] = "noise"

    kind: Literal["mixed", "simplex"] | None = None
    share: float | None = _number(0, 1, above=True)
    strength: float | Sequence[float] | None = _option(_Range(_Number(0, 100)))
    size: Sequence[float] | float | None = _option(_Range(_Number(0, 1, above=True)))
    period: float | None = _number(0, 100, above=True)
    octaves: int | None = _whole(1, 16)
    persistence: float | None = _number(0, 10, above=True)


@dataclass(frozen=True)
class ScoringOptions(Options):
    """Anomaly map and score from the distances of teacher and student.

    Args:
        scale_adaptation: Weights of the scales in map and score. ``fitted`` (default): fitted on held-out normal images
            with and without synthetic anomalies, at each validation of a training and at its end, with less weight for
            what responds to a few degrees, brightness or contrast; ``uniform``: all are equal; ``published``: a head of
            the student weighs them for each image, in the loss as well, and the score is the mean of the map.
        held_out: Share of the normal training images that the student is not trained on, in [0, 1). The weights of the
            scales are fitted on them, and the thresholds as well if there are no anomalous validation images.
            Default 0.1; 0 for none.
        damping: Mean square of the teacher's channels at which a distance is halved in the map, in [0, 10000].
            Default 10; 0 for none (published). In units of the compared features, whose variance is about 1 unless
            ``student.feature_scaling`` is none.
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels of the backbone's input, in [0, 1000];
            the distances of the score are smoothed by twice as much. Default 2; 4 in the published form.
        prototypes: Number of typical features of normal images, turned by up to 3 degrees, at each level, in [0, 4096].
            The distance to the nearest one counts in map and score beside that to the student. Default 256; 0 for none
            (published).
    """

    group: ClassVar[str] = "scoring"

    scale_adaptation: ScaleAdaptationMode | None = None
    held_out: float | None = _option(_Number(0, 1, below=True))
    damping: float | None = _number(0, 10_000)
    sigma: float | None = _number(0, 1000)
    prototypes: int | None = _whole(0, 4096)


@dataclass(frozen=True)
class OptimiserOptions(Options):
    """Optimiser (AdamW), learning rate and batches.

    Args:
        learning_rate: Learning rate, in (0, 1]. Default 0.005.
        betas: Decay rates of the two moments, each in [0, 1). Default (0.9, 0.999).
        weight_decay: Decoupled weight decay, in [0, 100]. Default 0.
        schedule: Learning rate over the training: ``none`` for a constant one, or ``cosine`` (default), which falls to
            zero at the last step (constant after the warm-up where only a time limit ends the training).
        warmup_steps: Steps of linear warm-up of the cosine schedule, in [0, 100000]; at most half of the training.
            Default 50.
        fill_last_batch: Whether a last batch of an epoch that is smaller than the others is filled up with images of
            the one before. Default true.
    """

    group: ClassVar[str] = "optimiser"

    learning_rate: float | None = _number(0, 1, above=True)
    betas: Sequence[float] | None = _option(_betas)
    weight_decay: float | None = _number(0, 100)
    schedule: Literal["none", "cosine"] | None = None
    warmup_steps: int | None = _whole(0, 100_000)
    fill_last_batch: bool | None = None


GROUPS: dict[str, type[Options]] = {
    options.group: options for options in (StudentOptions, LossOptions, NoiseOptions, ScoringOptions, OptimiserOptions)
}
"""The groups by the name of their argument."""


def over_saved(given: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the groups among given arguments with the fields of saved ones.

    Args:
        given: Arguments of the model.
        saved: Arguments of a checkpoint, with all fields of all groups.

    Returns:
        The given arguments; groups as dicts with all fields.
    """
    groups = {name: saved.get(name, {}) | GROUPS[name].of(given[name]).given() for name in given if name in GROUPS}
    return {**given, **groups}


# --- arguments of earlier versions ------------------------------------------------------------------------------------

RENAMED = {
    "student_block": "student.block",
    "student_depth": "student.depth",
    "feature_scaling": "student.feature_scaling",
    "pull_weight": "loss.pull",
    "restore_weight": "loss.restore",
    "contrast_weight": "loss.ratio",
    "noise_share": "noise.share",
    "noise_strength": "noise.strength",
    "noise_size": "noise.size",
    "noise_period": "noise.period",
    "noise_octaves": "noise.octaves",
    "noise_persistence": "noise.persistence",
    "noise_seed": "seed",
    "scale_adaptation": "scoring.scale_adaptation",
    "damping": "scoring.damping",
    "sigma": "scoring.sigma",
    "learning_rate": "optimiser.learning_rate",
    "betas": "optimiser.betas",
    "weight_decay": "optimiser.weight_decay",
    "schedule": "optimiser.schedule",
    "warmup_steps": "optimiser.warmup_steps",
}
_FITTED = "the weights of levels and extents are fitted, see scoring.scale_adaptation"
_REMOVED = {
    **dict.fromkeys(("calibration", "merge", "score", "top_k", "diffuse_top_k", "level", "broad_weight"), _FITTED),
    "noise_count": "an image has one anomaly",
    "noise_foreground": "anomalies are anywhere in the image",
    "feature_cache_dir": "features that exceed the memory of feature_cache are computed in every epoch",
}

# Declared for the command line, so that its error names the new argument.
RenamedArguments = TypedDict("RenamedArguments", dict.fromkeys((*RENAMED, *_REMOVED), NotRequired[Any]))  # type: ignore[misc]


def refuse_renamed(given: Mapping[str, Any]) -> None:
    """Refuse arguments that the model does not have, with the new names of renamed ones.

    Args:
        given: Arguments by name.

    Raises:
        ValueError: If an argument was renamed or removed.
        TypeError: If an argument is unknown.
    """
    unknown = [name for name in given if name not in {*RENAMED, *_REMOVED}]
    if unknown:
        known = [*RENAMED.values(), "preset", "backbone", "layers", "pre_trained", "feature_cache", "compile_model"]
        close = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        msg = f"ScaleAwareCRD has no argument {unknown[0]!r}{hint}"
        raise TypeError(msg)
    gone = [f"{name} was removed: {_REMOVED[name]}" for name in given if name in _REMOVED]
    if gone:
        raise ValueError("; ".join(gone))
    if given:
        parts = [f"{name} is now {RENAMED[name]}" for name in given]
        name, value = next(iter(given.items()))
        group, _, field = RENAMED[name].partition(".")
        example = f"{group}={{{field!r}: {value!r}}}" if field else f"{group}={value!r}"
        msg = f"{'; '.join(parts)}: {example} in Python, --model.{RENAMED[name]} on the command line"
        raise ValueError(msg)
