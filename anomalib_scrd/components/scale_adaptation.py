"""The published scale adaptation: weights of the scales from the embedding of the image."""

__all__ = ["PublishedScaleAdaptation"]

import torch
from torch import nn


class PublishedScaleAdaptation(nn.Module):
    """``softmax(linear(global max pool of the embedding))``, trained through the loss it weighs (Li et al., ICLR 2025).

    The weights can minimise this loss by favouring the scale that is easiest to predict, and then the other scales stop
    learning. The class is kept for comparison; the default weighs the scales by
    :class:`~anomalib_scrd.scoring.fitted_weights.FittedWeights`.

    Args:
        in_channels: Channels of the embedding.
        num_scales: Number of scales K.
    """

    def __init__(self, in_channels: int, num_scales: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, num_scales)
        # Zeros: the training starts from uniform weights.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Weigh the scales of each image.

        Args:
            embedding: (B, C, H, W) from the bottleneck.

        Returns:
            (B, K) float32, positive, each row sums to K: 1 is the uniform weight.
        """
        # Exporters refuse adaptive_max_pool2d at dynamic sizes.
        pooled = embedding.amax(dim=(-2, -1))
        return self.linear.out_features * self.linear(pooled).float().softmax(dim=1)
