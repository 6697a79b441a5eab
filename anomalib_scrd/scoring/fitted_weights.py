"""Scale adaptation: weights of levels and extents, fitted to normal images against synthetic anomalies."""

__all__ = ["FittedWeights"]

import torch
from torch import nn

# Evidence beyond so many standard deviations counts no more: the spread of few normal images is uncertain.
_MOST = 8.0
_MIN_SPREAD = 1e-6
# Share of the mean variance in the covariance. Between 0.5 and 0.7 nothing changes; at 0.2 and 0.9 a point is lost.
_SHRINKAGE = 0.7


class FittedWeights(nn.Module):
    """A linear score of standardised evidence: the log odds that an image holds an anomaly.

    With ``z = clip((e - m) / s, -8, 8)`` the evidence e standardised by the mean m and the standard deviation s of
    held-out normal images, C the covariance of z on these, shrunk to ``S = 0.3 C + 0.7 tr(C) / F I``, and d the
    difference of the mean z of the same images with synthetic anomalies and without, the score is Fisher's linear
    discriminant ``w (z - z0 - d / 2)``, ``w = S^-1 d``: the log odds of two normal distributions with means z0 and
    z0 + d and the covariance S. How much a level and an extent count is thus learned from contrast, and no training
    loss can be lowered through these weights. Before a fit every weight is equal.

    Args:
        num_features: Number F of features.

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

    def __init__(self, num_features: int) -> None:
        super().__init__()
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
        return (self._standardised(evidence) * weight).sum(dim=1) + self.bias

    @torch.no_grad()
    def fit(self, normal: torch.Tensor, anomalous: torch.Tensor | None) -> None:
        """Fit the weights.

        Args:
            normal: (N, F) evidence of normal images that the student was not trained on, at least two.
            anomalous: (M, F) evidence of images with synthetic anomalies. None standardises the evidence and makes
                every weight equal.

        Raises:
            ValueError: If there are fewer than two normal images, or values that are not finite.
        """
        if len(normal) < 2:  # noqa: PLR2004
            msg = f"the weights of the scales need at least 2 held-out normal images, got {len(normal)}"
            raise ValueError(msg)
        if not all(bool(part.isfinite().all()) for part in (normal, anomalous) if part is not None):
            msg = "the distances of teacher and student are not finite: the training has diverged"
            raise ValueError(msg)
        self.mean.copy_(normal.mean(dim=0))
        self.spread.copy_(normal.std(dim=0, correction=0).clamp_min(_MIN_SPREAD))
        if anomalous is None:
            self.weight.fill_(1 / len(self.weight))
            self.bias.zero_()
        else:
            # On the host: not every device has float64.
            without, with_anomaly = (self._standardised(part).cpu().double() for part in (normal, anomalous))
            covariance = torch.atleast_2d(torch.cov(without.mT))
            typical = covariance.diagonal().mean().clamp_min(_MIN_SPREAD) * torch.eye(len(covariance)).double()
            shrunk = torch.lerp(covariance, typical, _SHRINKAGE)
            centre = without.mean(dim=0)
            difference = with_anomaly.mean(dim=0) - centre
            weight = torch.linalg.solve(shrunk, difference)
            self.weight.copy_(weight)
            self.bias.copy_(-weight @ (centre + difference / 2))
        self.fitted.fill_(value=True)

    def _standardised(self, evidence: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (evidence.ndim - 2))
        return ((evidence - self.mean.view(shape)) / self.spread.view(shape)).clamp(-_MOST, _MOST)
