"""The terms of the training loss, each a pure function of lists of features."""

__all__ = [
    "LossTerms",
    "ScaleAwareContrastiveLoss",
    "contrast_at_places",
    "contrastive_ratio",
    "places_of",
    "scale_distances",
    "split_batch",
    "visibility_weights",
]

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.distance import cosine_distance, image_distance

_MIN_PUSH = 1e-6
_MIN_GAP = 1e-4

# Difference of two cosine distances at which the soft contrast begins to saturate.
_TEMPERATURE = 0.2


class LossTerms(NamedTuple):
    """The loss and its parts; every tensor but the first is for logging and carries no gradient.

    Attributes:
        total: () the minimised value.
        pull: (K,) mean distance of the student to the clean teacher, per scale.
        push: (K,) mean distance of the student to the noisy teacher (``ratio``), or at the places of the anomalies
            (``contrast``); None where neither term is used.
        restore: (K,) mean distance of the student on the noisy image to the clean teacher; None if not used.
        contrast: () value of the contrast at places, or None.
        ratio: () weighted pull over weighted push, or None.
        weights: (K,) mean weight of each scale.
    """

    total: torch.Tensor
    pull: torch.Tensor
    push: torch.Tensor | None
    restore: torch.Tensor | None
    contrast: torch.Tensor | None
    ratio: torch.Tensor | None
    weights: torch.Tensor


def scale_distances(teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compute the distance of teacher and student at each scale of each image.

    Args:
        teacher: K features (B, C_k, H_k, W_k).
        student: K features of the same shapes.

    Returns:
        (B, K) float32 in [0, 2] up to rounding.
    """
    return torch.stack([image_distance(t, s) for t, s in zip(teacher, student, strict=True)], dim=1)


def split_batch(features: Sequence[torch.Tensor], count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Split features into those of the first images of a batch and those of the others.

    ``torch.split`` joins the gradients of both parts in one pass. The gradient of a slice would be a contiguous tensor
    of zeros around it: batch norm's backward pass takes twice as long where the features are channels last.

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
    """Compute the published loss: pull the student to the clean teacher, push it from the noisy one.

    ``pull = sum_k mean_b w_bk (1 - cos(E_k, D_k))``, push the same with the noisy teacher's features against the SAME
    student output, loss ``pull / push`` (Li et al., ICLR 2025). The weights stand outside the cosine: inside, as in the
    released code, a cosine cancels them.

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


def visibility_weights(
    clean: Sequence[torch.Tensor], noisy: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Weigh the scales of each image by the response of the teacher's features to its anomaly.

    ``w_bk = K g_bk / sum_k g_bk`` with ``g_bk`` the mean distance of the clean and the noisy teacher at the places of
    the anomaly of image b in scale k. The weights depend only on the frozen teacher: no parameter can lower the loss
    through them, so they cannot collapse.

    Args:
        clean: Teacher's features of the clean images, K tensors (B, C_k, H_k, W_k).
        noisy: Teacher's features of the noisy images.
        masks: Places of the anomalies at each scale, K tensors (B, H_k, W_k) float32, 0 or 1.

    Returns:
        (B, K) float32 without gradient; each row sums to K, or to less where the anomaly hardly changes the teacher's
        features: the sum of the gaps is below 1e-4.
    """
    with torch.no_grad():
        gaps = [
            (cosine_distance(c, n, dim=(1,)) * m).sum((1, 2)) / m.sum((1, 2)).clamp_min(1)
            for c, n, m in zip(clean, noisy, masks, strict=True)
        ]
        gap = torch.stack(gaps, dim=1).clamp_min(0)
        return len(gaps) * gap / gap.sum(dim=1, keepdim=True).clamp_min(_MIN_GAP)


def contrast_at_places(
    clean: Sequence[torch.Tensor],
    noisy: Sequence[torch.Tensor],
    restored: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    weights: torch.Tensor | None = None,
    temperature: float = _TEMPERATURE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the contrast at places: the student nearer to the clean teacher than to the noisy one at an anomaly.

    The student's input is the noisy image. With ``near`` and ``far`` its cosine distances to the clean and the noisy
    teacher at a place, each place of an anomaly costs ``t softplus((near - far) / t)``; the costs are averaged over the
    places of each image and over the images, weighted by scale and image, and summed over the scales. In the published
    ratio of complete images, a small anomaly leaves pull and push nearly equal, and the gradient is a small difference.

    Args:
        clean: Teacher's features of the clean images, K tensors (B, C_k, H_k, W_k).
        noisy: Teacher's features of the noisy images.
        restored: Student's features of the noisy images.
        masks: Places of the anomalies at each scale, K tensors (B, H_k, W_k) float32, 0 or 1.
        weights: (B, K) weights of the scales, e.g. :func:`visibility_weights`; every scale counts 1 without them.
        temperature: t, above 0, in units of a cosine distance; default 0.2.

    Returns:
        () float32, above 0; and (K,) mean distance to the noisy teacher at these places, without gradient.
    """
    total: torch.Tensor | float = 0.0
    pushes = []
    for k, (c, n, r, mask) in enumerate(zip(clean, noisy, restored, masks, strict=True)):
        near, far = cosine_distance(r, c, dim=(1,)), cosine_distance(r, n, dim=(1,))
        share = mask / mask.sum((1, 2), keepdim=True).clamp_min(1)
        cost = (temperature * F.softplus((near - far) / temperature) * share).sum((1, 2))
        total = total + (cost if weights is None else cost * weights[:, k]).mean()
        pushes.append((far.detach() * share).sum((1, 2)).mean())
    return torch.as_tensor(total), torch.stack(pushes)


def places_of(mask: torch.Tensor, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Mark the positions of each scale that contain a pixel of an anomaly.

    Args:
        mask: (B, 1, H, W) bool.
        features: K features (B, C_k, H_k, W_k).

    Returns:
        K tensors (B, H_k, W_k) float32, 0 or 1.
    """
    pixels = mask.float()
    return [F.adaptive_max_pool2d(pixels, feature.shape[-2:])[:, 0] for feature in features]


class ScaleAwareContrastiveLoss(nn.Module):
    """Weighted sum of the terms: pull, restore, contrast at places, and the published ratio.

    Published: ``ratio=1``, the others 0. Default: ``pull=1, restore=1, contrast=0.3, ratio=0``.

    Args:
        pull: Weight of the distance between the student and the clean teacher.
        restore: Weight of the same distance with the noisy image as the student's input.
        contrast: Weight of :func:`contrast_at_places`, weighted by :func:`visibility_weights`.
        ratio: Weight of :func:`contrastive_ratio`.

    Raises:
        ValueError: If a weight is negative, or all are 0.
    """

    def __init__(self, pull: float, restore: float, contrast: float, ratio: float) -> None:
        super().__init__()
        weights = {"pull": pull, "restore": restore, "contrast": contrast, "ratio": ratio}
        for name, value in weights.items():
            if not value >= 0:
                msg = f"loss.{name} must be at least 0, got {value}"
                raise ValueError(msg)
        if not any(weights.values()):
            msg = "loss.pull, loss.restore, loss.contrast and loss.ratio are all 0: there is nothing to train"
            raise ValueError(msg)
        self.pull = pull
        self.restore = restore
        self.contrast = contrast
        self.ratio = ratio

    @property
    def needs_noisy(self) -> bool:
        """Whether any term needs the noisy image."""
        return self.needs_restored or self.ratio > 0

    @property
    def needs_restored(self) -> bool:
        """Whether the student must process the noisy image."""
        return self.restore > 0 or self.contrast > 0

    def forward(
        self,
        clean: Sequence[torch.Tensor],
        student: Sequence[torch.Tensor],
        noisy: Sequence[torch.Tensor] | None = None,
        restored: Sequence[torch.Tensor] | None = None,
        mask: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> LossTerms:
        """Compute the terms.

        Args:
            clean: Teacher's features of the clean images, K tensors (B, C_k, H_k, W_k).
            student: Student's features of the clean images.
            noisy: Teacher's features of the first b images with noise, (b, C_k, H_k, W_k).
            restored: Student's features of the same images. ``restore`` is scaled by b / B, so that images with and
                without noise have the same weight.
            mask: (b, 1, H, W) bool, the places of the anomalies.
            weights: (B, K) weights of the scales in pull, restore and ratio; every scale counts 1 without them.

        Returns:
            The total and its parts.

        Raises:
            ValueError: If features of a term with a weight above 0 are missing, or shapes differ.
        """
        push = ratio = back = contrast = None
        if self.ratio > 0:
            noisy = _required("noisy", noisy)
            count = len(noisy[0])
            contrasted, others = split_batch(student, count)
            pull = scale_distances([f[:count] for f in clean], contrasted)
            if others:
                pull = torch.cat([pull, scale_distances([f[count:] for f in clean], others)])
            away = scale_distances(noisy, contrasted)
            some = None if weights is None else weights[:count]
            ratio = _ratio(_weighted(pull[:count], some), _weighted(away, some))
            push = away.detach().mean(dim=0)
        else:
            pull = scale_distances(clean, student)
        total = self.pull * _weighted(pull, weights)
        if ratio is not None:
            total = total + self.ratio * ratio
        if self.needs_restored:
            restored = _required("restored", restored)
            count = len(restored[0])
            few = [f[:count] for f in clean]
            if self.restore > 0:
                back = scale_distances(few, restored)
                some = None if weights is None else weights[:count]
                total = total + self.restore * count / len(pull) * _weighted(back, some)
            if self.contrast > 0:
                noisy, mask = _required("noisy", noisy), _required("mask", mask)
                places = places_of(mask, clean)
                seen = visibility_weights(few, noisy, places)
                contrast, push = contrast_at_places(few, noisy, restored, places, seen)
                total = total + self.contrast * contrast
        return LossTerms(
            total=total,
            pull=pull.detach().mean(dim=0),
            push=push,
            restore=None if back is None else back.detach().mean(dim=0),
            contrast=None if contrast is None else contrast.detach(),
            ratio=None if ratio is None else ratio.detach(),
            weights=torch.ones_like(pull[0]) if weights is None else weights.detach().mean(dim=0),
        )


def _weighted(distances: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    if weights is not None:
        if weights.shape != distances.shape:
            msg = f"weights must be (B, K) = {tuple(distances.shape)}, got {tuple(weights.shape)}"
            raise ValueError(msg)
        distances = distances * weights
    return distances.mean(dim=0).sum()


def _ratio(pull: torch.Tensor, push: torch.Tensor) -> torch.Tensor:
    # The push is 0 only where the pull is 0 as well: the bound only avoids 0 / 0.
    return pull / push.clamp_min(_MIN_PUSH)


def _required(name: str, value: torch.Tensor | Sequence[torch.Tensor] | None):  # type: ignore[no-untyped-def]  # noqa: ANN202
    if value is None:
        msg = f"{name!r} is missing: a term of the loss with a weight above 0 needs it"
        raise ValueError(msg)
    return value
