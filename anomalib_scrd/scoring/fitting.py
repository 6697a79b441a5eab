"""Fits the weights of levels and extents on held-out normal images with and without synthetic anomalies; prototypes."""

__all__ = [
    "FEWEST_IMAGES",
    "FIT_EXTENTS",
    "MANY_IMAGES",
    "fit_prototypes",
    "fit_weights",
    "left_out_scores",
]

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from anomalib_scrd.loss import places_of
from anomalib_scrd.noise import MIXED, Normalisation, SyntheticAnomalies
from anomalib_scrd.presets import PRESETS
from anomalib_scrd.scoring.fitted_weights import FittedWeights
from anomalib_scrd.scoring.global_changes import CHANGES, turned
from anomalib_scrd.training.modes import evaluation_mode

if TYPE_CHECKING:
    from anomalib_scrd.torch_model import ScaleAwareCRDModel

FIT_EXTENTS = ((0.03, 0.1), (0.12, 0.3), (0.4, 0.9))
"""Small, medium and large anomalies, relative to the image."""

FEWEST_IMAGES = 2
"""Fewest normal images with a standard deviation."""

MANY_IMAGES = 16
"""From this many images on, their scores are like those of new images although the weights were fitted on them."""

# Largest number of images that are changed: more take longer without changing the weights.
_MOST_IMAGES = 20
# Pixels of a batch: four images of 256 x 256.
_BATCH_PIXELS = 2**18
# Positions of each level whose features are clustered to prototypes.
_POSITIONS = 10_000


@torch.no_grad()
def fit_weights(
    model: "ScaleAwareCRDModel",
    images: torch.Tensor,
    normalisation: Normalisation | None,
    seed: int,
    trained_on: Iterable[torch.Tensor] = (),
) -> torch.Tensor | None:
    """Fit the weights of the score and of the map; both are unchanged after an error.

    Each of the first 20 images gets an anomaly of each of the four kinds at each of three extents. The weights of the
    score compare the evidence of images, those of the map the distances at places: all places of normal images against
    the mean over the places of each anomaly.

    Args:
        model: The model, on the images' device. It is left in the mode in which it was.
        images: (N, 3, H, W), normal, not seen by the student, normalised; at least two.
        normalisation: How they were normalised; None where they were not.
        seed: Seed of the anomalies; the same seed gives the same weights.
        trained_on: Batches (B, 3, H, W) of images that the student was trained on, for the covariance of the evidence;
            not read where the weights are not fitted.

    Returns:
        :func:`left_out_scores` of 3 to 15 images; None for other numbers and in the published form.

    Raises:
        ValueError: If there are too few images, or the model's distances are not finite.
    """
    scoring = model.map_and_score
    if scoring.published:
        return None
    with evaluation_mode(model):
        normal, normal_levels = _evidence(model, images)
        anomalous = places = trained = changed = None
        if not scoring.uniform:
            parts = [_evidence(model, batch)[0] for batch in trained_on]
            trained = torch.cat(parts) if parts else None
            anomalous, places = _anomalous_evidence(model, images, normalisation, seed)
            changed = _changed_evidence(model, images, normalisation)
    scoring.score_weights.fit(normal, anomalous, trained, changed)
    scoring.map_weights.fit(normal_levels.transpose(1, -1).flatten(0, 2), places)
    few = FEWEST_IMAGES < len(images) < MANY_IMAGES
    return left_out_scores(scoring.score_weights, normal, anomalous, trained, changed) if few else None


@torch.no_grad()
def fit_prototypes(model: "ScaleAwareCRDModel", images: Iterable[torch.Tensor], seed: int) -> None:
    """Find the prototypes of a model in normal images; no effect on a model without prototypes.

    Each image is turned by up to 3 degrees, so that an image whose position differs a little is as near to them.

    Args:
        model: The model, on the images' device. It is left in the mode in which it was.
        images: Batches (B, 3, H, W), normalised, of images that the student is trained on; read only where needed. At
            most 10,000 positions of each level are used, drawn from all images.
        seed: Seed of the angles, the positions and the first centres.
    """
    prototypes = model.map_and_score.prototypes
    if prototypes is None:
        return
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with evaluation_mode(model):
        for batch in images:
            for level, features in enumerate(model.teacher_features(turned(batch, generator))):
                rows = features.float().movedim(1, -1).flatten(0, -2).cpu()
                keys = torch.rand(len(rows), generator=generator)
                if level in drawn:
                    rows, keys = (torch.cat(pair) for pair in zip(drawn[level], (rows, keys), strict=True))
                # Reservoir sampling: the positions with the smallest of random keys.
                keys, kept = keys.topk(min(_POSITIONS, len(keys)), largest=False)
                drawn[level] = rows[kept], keys
    if drawn:
        prototypes.fit([drawn[level][0] for level in sorted(drawn)], seed)


def left_out_scores(
    weights: FittedWeights,
    normal: torch.Tensor,
    anomalous: torch.Tensor | None,
    trained: torch.Tensor | None = None,
    changed: torch.Tensor | None = None,
) -> torch.Tensor:
    """Score each of a few normal images by weights that are fitted without it.

    Args:
        weights: Weights of the score; left as they are.
        normal: (N, F) evidence of normal images, more than two.
        anomalous: (M N, F) evidence of the same images with M anomalies each, all images next to each other; or None.
        trained: (T, F) evidence of images that the student was trained on, or None.
        changed: (G, N, F) evidence of the same images after G changes that are no anomaly, or None.

    Returns:
        (N,) scores.
    """
    weights, count = copy.deepcopy(weights), len(normal)
    scores = []
    for index in range(count):
        others = torch.arange(count, device=normal.device) != index
        spoilt = None if anomalous is None else anomalous.unflatten(0, (-1, count))[:, others].flatten(0, 1)
        weights.fit(normal[others], spoilt, trained, None if changed is None else changed[:, others])
        scores.append(weights(normal[~others]))
    return torch.cat(scores)


def _anomalous_evidence(
    model: "ScaleAwareCRDModel", images: torch.Tensor, normalisation: Normalisation | None, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Evidence of images with anomalies, (M, F), and mean distances of their levels inside these, (M, K)."""
    generator = torch.Generator(images.device).manual_seed(seed)
    noise = PRESETS["default"].noise  # whatever the student is trained with
    form = {name: getattr(noise, name) for name in ("kind", "strength", "period", "octaves", "persistence")}
    anomalies = SyntheticAnomalies(size=FIT_EXTENTS[-1], **form)
    pool = images.float() if normalisation is None else normalisation.undo(images)
    features, inside = [], []
    for name in MIXED:  # the extents in one pass: few images at a time take longer
        parts = [anomalies.spoil(pool[:_MOST_IMAGES], pool, name, extent, generator) for extent in FIT_EXTENTS]
        spoilt, mask = map(torch.cat, zip(*parts, strict=True))
        evidence, levels = _evidence(model, spoilt if normalisation is None else normalisation(spoilt))
        places = places_of(mask, [levels])[0].unsqueeze(1)
        features.append(evidence)
        inside.append((levels * places).sum((2, 3)) / places.sum((2, 3)).clamp_min(1))
    return torch.cat(features), torch.cat(inside)


def _changed_evidence(
    model: "ScaleAwareCRDModel", images: torch.Tensor, normalisation: Normalisation | None
) -> torch.Tensor:
    """Evidence of images after each change that is no anomaly, (G, n, F)."""
    some = images[:_MOST_IMAGES].float() if normalisation is None else normalisation.undo(images[:_MOST_IMAGES])
    changed = torch.cat([change(some) for change in CHANGES])
    features, _ = _evidence(model, changed if normalisation is None else normalisation(changed))
    return features.unflatten(0, (len(CHANGES), -1))


def _evidence(model: "ScaleAwareCRDModel", images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Evidence (N, F) and smoothed levels (N, K, h, w) of images."""
    parts = [model.evidence(piece) for piece in _pieces(images)]
    features, levels = (torch.cat(part) for part in zip(*parts, strict=True))
    return features, levels


def _pieces(images: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from images.split(max(1, _BATCH_PIXELS // (images.shape[-2] * images.shape[-1])))
