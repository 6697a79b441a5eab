"""Weights of the anomaly map: distances at a place, compared with normal images and with the rest of its image."""

__all__ = ["MapWeights"]

import torch
from torch import nn

from anomalib_scrd.scoring.fitted_weights import FittedWeights


class MapWeights(nn.Module):
    """Weighs M smoothed maps of distances into one anomaly map.

    The features of a place are the M distances there and their M means over the image. An anomaly increases the
    distances at its places; the means are also increased by an image as a whole, its brightness or a rotation. The
    difference d of :class:`~anomalib_scrd.scoring.fitted_weights.FittedWeights` is therefore 0 for the means, which
    enter the covariance only. Fisher's discriminant gives them negative weights: a place is compared with normal images
    and with the rest of its image. Of a single map it shows the distance minus 0.3 times the mean, up to a factor and a
    constant. Before a fit all maps have the same weight, and the means have none.

    Args:
        count: Number M of maps.
        uniform: Whether this remains so after a fit, which only standardises the maps.

    Attributes:
        linear: The weights of the 2 M features, or of the M maps if they are uniform.
    """

    def __init__(self, count: int, *, uniform: bool) -> None:
        super().__init__()
        self.uniform = uniform
        self.linear = FittedWeights(count if uniform else 2 * count)
        self.linear.weight[:count] = 1 / count
        self.linear.weight[count:] = 0

    def forward(self, maps: torch.Tensor, means: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the anomaly map.

        Args:
            maps: (B, M, h, w) float32.
            means: (B, M), of the image to which the maps belong; by default those of the maps. They differ for tiles.

        Returns:
            (B, h, w) float32: the log odds that a place is anomalous, for as many normal places as anomalous ones.
        """
        return self.linear(self._features(maps, means))

    def fit(self, normal: torch.Tensor, inside: torch.Tensor | None) -> None:
        """Fit the weights.

        Args:
            normal: (N, M, h, w) maps of normal images that the student was not trained on.
            inside: (A, M) means of the maps over the places of each of A synthetic anomalies; None where the weights
                are uniform.

        Raises:
            ValueError: If there are fewer than two normal places, or values that are not finite.
        """
        features = self._features(normal)
        if inside is not None and not self.uniform:
            unchanged = normal.mean(dim=(0, 2, 3)).expand(len(inside), -1)  # d is 0 for the means of the image
            inside = torch.cat([inside, unchanged], dim=1)
        self.linear.fit(features.movedim(1, -1).flatten(0, 2), inside)

    def _features(self, maps: torch.Tensor, means: torch.Tensor | None = None) -> torch.Tensor:
        """Maps and, unless the weights are uniform, means at each place, (B, 2 M, h, w)."""
        if self.uniform:
            return maps
        means = maps.mean(dim=(2, 3)) if means is None else means
        return torch.cat([maps, means[..., None, None].expand_as(maps)], dim=1)
