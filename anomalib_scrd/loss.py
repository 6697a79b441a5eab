"""The terms of the training loss, each a pure function of lists of features."""

__all__ = [
    "LossTerms",
    "ScaleAwareContrastiveLoss",
    "contrastive_ratio",
    "expected_distance_nll",
    "scale_distances",
    "split_batch",
]

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from anomalib_scrd.components.scale_adaptation import ScaleWeights
from anomalib_scrd.distance import image_distance

_MIN_PUSH = 1e-6


class LossTerms(NamedTuple):
    """The loss and what it is made of; every tensor but the first is for logging and carries no gradient.

    Attributes:
        total: () what is minimised.
        pull: (K,) mean distance of the student to the clean teacher, per scale.
        push: (K,) mean distance of the student to the noisy teacher, or None where no noisy image was seen.
        restore: (K,) mean distance of the student fed with the noisy image to the clean teacher, or None.
        ratio: () weighted pull over weighted push, or None.
        weights: (K,) mean weight of each scale.
    """

    total: torch.Tensor
    pull: torch.Tensor
    push: torch.Tensor | None
    restore: torch.Tensor | None
    ratio: torch.Tensor | None
    weights: torch.Tensor


def scale_distances(teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> torch.Tensor:
    """Distance of teacher and student at each scale of each image.

    Args:
        teacher: K features (B, C_k, H_k, W_k).
        student: K features of the same shapes.

    Returns:
        (B, K) float32 in [0, 2].
    """
    return torch.stack([image_distance(t, s) for t, s in zip(teacher, student, strict=True)], dim=1)


def split_batch(features: Sequence[torch.Tensor], count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features of the first images of a batch and of the others, whose gradients are joined in one pass.

    The gradient of a slice is zeros around it, laid out channels first: it is added to those of other parts, and batch
    norm's backward pass, which expects the channels last where the features have them, takes twice as long.

    Args:
        features: K tensors (B, C_k, H_k, W_k).
        count: Number of the first images, in [1, B].

    Returns:
        K tensors (count, C_k, H_k, W_k), and K tensors (B - count, C_k, H_k, W_k); none if there are no others.
    """
    if count == len(features[0]):
        return list(features), []
    parts = [feature.split([count, len(feature) - count]) for feature in features]
    return [first for first, _ in parts], [second for _, second in parts]


def contrastive_ratio(
    clean: Sequence[torch.Tensor],
    noisy: Sequence[torch.Tensor],
    student: Sequence[torch.Tensor],
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The paper's loss: pull the student to the clean teacher, push it from the noisy one.

    ``pull = sum_k mean_b w_bk (1 - cos(E_k, D_k))``, push the same with the noisy teacher's features against the SAME
    student output, loss ``pull / push`` (Li et al., ICLR 2025; see "differences from the released code" in the README
    for why the weights stand outside the cosine).

    Args:
        clean: Teacher's features of the clean images, K tensors (B, C_k, H_k, W_k).
        noisy: Teacher's features of the noisy images.
        student: Student's features.
        weights: (B, K) weights of the scales; every scale counts 1 without them.

    Returns:
        () float32, at least 0; 1 where noisy equals clean.

    Raises:
        ValueError: If the lists or shapes don't match, or the weights are not (B, K).
    """
    pull = _weighted(scale_distances(clean, student), weights)
    push = _weighted(scale_distances(noisy, student), weights)
    return _ratio(pull, push)


def expected_distance_nll(distances: torch.Tensor, log_expected: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of distances that are exponentially distributed around what was expected.

    ``sum_k mean_b (d_bk / e_bk + log e_bk)``, least where ``e_bk`` is the mean of ``d_bk`` given the image. The
    distances are taken as data: no gradient reaches them.

    Args:
        distances: (B, K) distances, at least 0.
        log_expected: (B, K) logarithm of the expected distances e.

    Returns:
        () float32.
    """
    return (distances.detach() * torch.exp(-log_expected) + log_expected).mean(dim=0).sum()


class ScaleAwareContrastiveLoss(nn.Module):
    """Weighted sum of the terms: pull, restore and the contrastive ratio, and the fit of the scale adaptation.

    Published: ``contrast=1``, the others 0. The default is reverse distillation (RD4AD): what the ratio and the
    restoration cost did not pay at equal training time (the README's ablation).

    Args:
        pull: Weight of the distance to the clean teacher.
        restore: Weight of the distance, to the clean teacher, of the student fed with the noisy image.
        contrast: Weight of the ratio.

    Raises:
        ValueError: If a weight is negative, or all are 0.
    """

    def __init__(self, pull: float, restore: float = 0.0, contrast: float = 0.0) -> None:
        super().__init__()
        weights = {"loss.pull": pull, "loss.restore": restore, "loss.contrast": contrast}
        for name, value in weights.items():
            if not value >= 0:
                msg = f"{name} must be at least 0, got {value}"
                raise ValueError(msg)
        if not any(weights.values()):
            msg = f"{', '.join(weights)} are all 0: there is nothing to train"
            raise ValueError(msg)
        self.pull_weight = pull
        self.restore_weight = restore
        self.contrast_weight = contrast

    @property
    def needs_noisy(self) -> bool:
        """Whether any term needs the noisy image at all."""
        return self.restore_weight > 0 or self.contrast_weight > 0

    @property
    def needs_restored(self) -> bool:
        """Whether the student must see the noisy image."""
        return self.restore_weight > 0

    def forward(
        self,
        clean: Sequence[torch.Tensor],
        student: Sequence[torch.Tensor],
        scale: ScaleWeights,
        noisy: Sequence[torch.Tensor] | None = None,
        restored: Sequence[torch.Tensor] | None = None,
    ) -> LossTerms:
        """Compute the terms.

        Args:
            clean: Teacher's features of the clean images, K tensors (B, C_k, H_k, W_k).
            student: Student's features of the clean images.
            scale: Weights of the scales.
            noisy: Teacher's features of the first b images with noise, (b, C_k, H_k, W_k); needed for the ratio, which
                is that of these images.
            restored: Student's features of the same; needed for the restoration. An image with noise counts as much as
                one without: b / B of the weight for b of them.

        Returns:
            The total and its parts.

        Raises:
            ValueError: If features are missing for a term that counts.
        """
        push = ratio = back = None
        if self.contrast_weight > 0:
            noisy = _required("noisy", noisy)
            count = len(noisy[0])
            contrasted, others = split_batch(student, count)
            pull = scale_distances([f[:count] for f in clean], contrasted)
            if others:
                pull = torch.cat([pull, scale_distances([f[count:] for f in clean], others)])
            push = scale_distances(noisy, contrasted)
            weights = scale.weights[:count]
            ratio = _ratio(_weighted(pull[:count], weights), _weighted(push, weights))
        else:
            pull = scale_distances(clean, student)
        total = self.pull_weight * _weighted(pull, scale.weights)
        if ratio is not None:
            total = total + self.contrast_weight * ratio
        if self.restore_weight > 0:
            restored = _required("restored", restored)
            count = len(restored[0])
            back = scale_distances([f[:count] for f in clean], restored)
            share = count / len(pull)
            total = total + self.restore_weight * share * _weighted(back, scale.weights[:count])
        if scale.log_expected is not None:
            total = total + expected_distance_nll(pull, scale.log_expected)
        return LossTerms(
            total=total,
            pull=_mean(pull),
            push=None if push is None else _mean(push),
            restore=None if back is None else _mean(back),
            ratio=None if ratio is None else ratio.detach(),
            weights=_mean(scale.weights),
        )


def _weighted(distances: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    if weights is not None:
        if weights.shape != distances.shape:
            msg = f"weights must be (B, K) = {tuple(distances.shape)}, got {tuple(weights.shape)}"
            raise ValueError(msg)
        distances = distances * weights
    return distances.mean(dim=0).sum()


def _ratio(pull: torch.Tensor, push: torch.Tensor) -> torch.Tensor:
    # A student that has met the noisy teacher exactly has met the clean one as well: the bound only avoids 0 / 0.
    return pull / push.clamp_min(_MIN_PUSH)


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.detach().mean(dim=0)


def _required(name: str, features: Sequence[torch.Tensor] | None) -> Sequence[torch.Tensor]:
    if features is None:
        msg = f"the features {name!r} are missing: a term of the loss with a weight above 0 needs them"
        raise ValueError(msg)
    return features
