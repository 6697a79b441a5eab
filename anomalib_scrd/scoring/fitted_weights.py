"""Scale adaptation: weights of levels and extents, fitted to normal images against synthetic anomalies."""

__all__ = ["FittedWeights"]

from collections.abc import Sequence

import torch
from torch import nn

# Evidence is clipped at this many standard deviations: the spread of few normal images is uncertain.
_MOST = 8.0
_MIN_SPREAD = 1e-6
# Shrinkage of the covariance towards the mean variance. 0.5 to 0.7 give equal results; 0.2 and 0.9 lose a point.
_SHRINKAGE = 0.7
# Largest rise of the mean score under a change that is no anomaly, in standard deviations of normal images: of a normal
# distribution with a false-alarm rate of 5 %, half of one makes it 13 %, and one makes it 26 %.
_RISE = 0.5
# Weights of the scatter under changes that are no anomaly; the first one that is large enough is taken.
_CHANGES = (0.0, *(2.0**power for power in range(-4, 1)))


class FittedWeights(nn.Module):
    """A linear score of standardised evidence: the log odds that an image holds an anomaly.

    With ``z = clip((e - m) / s, -8, 8)`` the evidence e standardised by the mean m and the standard deviation s of
    held-out normal images, C the covariance of z, shrunk to ``S = 0.3 C + 0.7 tr(C) / F I``, and d the difference of
    the mean z of the same images with synthetic anomalies and without, the score is Fisher's linear discriminant
    ``w (z - z0 - d / 2)``, ``w = S^-1 d``: the log odds of two normal distributions with means z0 and z0 + d and the
    covariance S. The weights of levels and extents thus come from contrast, and the training loss does not depend on
    them. Before a fit every weight is equal.

    C is the mean of two covariances: that of the held-out images, which are few, and that of the student's training
    images about their own mean, which are many.

    Where images changed as a whole are given, brightness or position, no change may raise the mean score by more than
    half a standard deviation of normal images, which is the larger one of ``sqrt(w^T C w)`` and ``sqrt(w^T S w)``: few
    images have too small a C. To this end ``S`` has the addition ``c N`` in ``w``, N the mean of ``(z' - z) (z' -
    z)^T``, z' the standardised evidence of a changed image, with the smallest c of 0, 1/16, 1/8, ..., 1 that is
    sufficient (1 if none is). Directions that respond to such changes then count less.

    A student is trained to restore synthetic anomalies, which increases d beyond that of real ones. A feature of it can
    have a counterpart that is not trained with them, the same level and extent of the distance to prototypes. The part
    of d that belongs to features with counterparts is then multiplied by ``(l' / l)^p``, l its length and l' that of
    the part that belongs to the counterparts, and the mean of both is taken, the counterparts' weighted by a
    (measurements: configs/benchmark/README.md, "The effect of anomalies").

    Args:
        num_features: Number F of features.
        counterparts: F indices of counterparts, that of the feature itself where it has none; None, the default, for
            no counterparts.
        length: p in [0, 1]: 0 keeps the length, 1, the default, gives that of the counterparts.
        share: a in [0, 1], default 0.25.

    Attributes:
        weight: (F,) float32.
        bias: () float32.
        fitted: () bool, whether :meth:`fit` has been called.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    fitted: torch.Tensor

    def __init__(
        self, num_features: int, counterparts: Sequence[int] | None = None, length: float = 1.0, share: float = 0.25
    ) -> None:
        super().__init__()
        self.length, self.share = length, share
        self.counterparts = list(range(num_features) if counterparts is None else counterparts)
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("spread", torch.ones(num_features))
        self.register_buffer("weight", torch.full((num_features,), 1 / num_features))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def forward(self, evidence: torch.Tensor) -> torch.Tensor:
        """Score images or places.

        Args:
            evidence: (B, F, ...) float32.

        Returns:
            (B, ...) float32, log odds for as many normal examples as anomalous ones.
        """
        # Not a matrix product, which autocast would compute in half precision.
        weight = self.weight.view(-1, *[1] * (evidence.ndim - 2))
        return (_standardised(evidence, self.mean, self.spread) * weight).sum(dim=1) + self.bias

    @torch.no_grad()
    def fit(
        self,
        normal: torch.Tensor,
        anomalous: torch.Tensor | None,
        trained: torch.Tensor | None = None,
        changed: torch.Tensor | None = None,
    ) -> None:
        """Fit the weights.

        Args:
            normal: (N, F) evidence of normal images that the student was not trained on, at least two.
            anomalous: (M, F) evidence of images with synthetic anomalies. None standardises the evidence and makes
                every weight equal.
            trained: (T, F) evidence of normal images that the student was trained on, for the covariance; not used if
                fewer than two or None.
            changed: (G, n, F) evidence of the first n normal images after G changes that are no anomaly, or None.

        Raises:
            ValueError: If there are fewer than two normal images, or values that are not finite.
        """
        mean, spread = _moments(normal, anomalous, changed)
        self.mean.copy_(mean)
        self.spread.copy_(spread)
        if anomalous is None:
            self.weight.fill_(1 / len(self.weight))
            self.bias.zero_()
        else:
            # on the host: not every device has float64
            without, spoilt = (_standardised(part, mean, spread).cpu().double() for part in (normal, anomalous))
            difference = spoilt.mean(dim=0) - without.mean(dim=0)
            difference = self._untrained(difference)
            covariance = torch.atleast_2d(torch.cov(without.mT))
            if trained is not None and len(trained) > 1:
                known = _standardised(trained, trained.mean(dim=0), spread).cpu().double()
                covariance = (covariance + torch.cov(known.mT)) / 2
            typical = covariance.diagonal().mean().clamp_min(_MIN_SPREAD) * torch.eye(len(covariance)).double()
            shrunk = torch.lerp(covariance, typical, _SHRINKAGE)
            weight = torch.linalg.solve(shrunk, difference)
            if changed is not None:
                after = (
                    _standardised(changed.flatten(0, 1), mean, spread).cpu().double().unflatten(0, changed.shape[:2])
                )
                moves = after - without[: changed.shape[1]]
                weight = _steady(shrunk, difference, covariance, moves)
            self.weight.copy_(weight)
            self.bias.copy_(-weight @ (without.mean(dim=0) + difference / 2))
        self.fitted.fill_(value=True)

    def _untrained(self, difference: torch.Tensor) -> torch.Tensor:
        """Estimate d, (F,), of anomalies the student is not trained with from d of those it is trained with."""
        of_counterparts = difference[self.counterparts]
        has_one = torch.tensor([other != index for index, other in enumerate(self.counterparts)])
        own = torch.linalg.vector_norm(difference[has_one]).clamp_min(_MIN_SPREAD)
        scaled = difference * (torch.linalg.vector_norm(of_counterparts[has_one]) / own) ** self.length
        return torch.where(has_one, torch.lerp(scaled, of_counterparts, self.share), difference)


def _steady(
    shrunk: torch.Tensor, difference: torch.Tensor, covariance: torch.Tensor, moves: torch.Tensor
) -> torch.Tensor:
    """Weights (F,) of the discriminant whose score rises by at most half a standard deviation under each of G changes.

    Args:
        shrunk: S, (F, F).
        difference: d, (F,).
        covariance: C, (F, F).
        moves: z' - z, (G, n, F).
    """
    scatter = moves.flatten(0, 1).mT @ moves.flatten(0, 1) / moves[..., 0].numel()
    weight = difference
    for share in _CHANGES:
        weight = torch.linalg.solve(shrunk + share * scatter, difference)
        rise = (moves @ weight).mean(dim=1).max()
        if rise <= _RISE * torch.maximum(weight @ covariance @ weight, weight @ shrunk @ weight).sqrt():
            break
    return weight


def _moments(normal: torch.Tensor, *others: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the evidence of normal images, (F,) each."""
    if len(normal) < 2:  # noqa: PLR2004
        msg = f"the weights of the scales need at least 2 held-out normal images, got {len(normal)}"
        raise ValueError(msg)
    if not all(bool(part.isfinite().all()) for part in (normal, *others) if part is not None):
        msg = "the distances of teacher and student are not finite: the training has diverged"
        raise ValueError(msg)
    return normal.mean(dim=0), normal.std(dim=0, correction=0).clamp_min(_MIN_SPREAD)


def _standardised(evidence: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    shape = (-1, *[1] * (evidence.ndim - 2))
    return ((evidence - mean.view(shape)) / spread.view(shape)).clamp(-_MOST, _MOST)
