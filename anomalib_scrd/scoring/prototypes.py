"""Prototypes: typical directions of the teacher's features of normal images, at each level."""

__all__ = ["Prototypes"]

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from anomalib_scrd.distance import prototype_distance


class Prototypes(nn.Module):
    """Distances of the teacher's features to the nearest of P prototypes of each level.

    A student restores what it has learned to restore, and a new image that it predicts badly need not be anomalous. The
    distance to typical features of normal images has other errors. Both are evidence for the score, weighted by
    :class:`~anomalib_scrd.scoring.fitted_weights.FittedWeights`. The prototypes are centres of k-means over directions,
    because the distance is a cosine.

    Args:
        channels: Channels of the levels.
        count: Number P of prototypes of each level.

    Attributes:
        fitted: () bool, whether :meth:`fit` has been called; all distances are 0 before.
    """

    fitted: torch.Tensor

    def __init__(self, channels: Sequence[int], count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        for level, width in enumerate(channels):
            self.register_buffer(f"centres_{level}", torch.zeros(count, width))

    def forward(self, teacher: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Compute distances to the nearest prototype.

        Args:
            teacher: K features (B, C_k, H_k, W_k).

        Returns:
            K tensors (B, H_k, W_k) float32.
        """
        return [
            prototype_distance(features, self.get_buffer(f"centres_{level}")) * self.fitted
            for level, features in enumerate(teacher)
        ]

    @torch.no_grad()
    def fit(self, positions: Sequence[torch.Tensor], seed: int) -> None:
        """Find the prototypes.

        Args:
            positions: (N_k, C_k) float32 features of each level, at least one; fewer than P give some prototypes twice.
            seed: Seed of the first centres.
        """
        # Not at the top: anomalib's package of models imports this one.
        from anomalib.models.components.cluster import KMeans

        for level, rows in enumerate(positions):
            # On the host, where its sums have a fixed order, so that the same seed gives the same prototypes.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU as well
                _, centres = KMeans(self.count).fit(F.normalize(rows.cpu(), dim=1))
            self.get_buffer(f"centres_{level}").copy_(F.normalize(centres, dim=1))
        self.fitted.fill_(value=True)
