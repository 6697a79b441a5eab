"""How much each scale counts in the loss and in the anomaly map, for each image."""

__all__ = ["SCALE_ADAPTATIONS", "ScaleAdaptation", "ScaleWeights"]

from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

ScaleAdaptationMode = Literal["adaptive", "published", "uniform"]
SCALE_ADAPTATIONS = ("adaptive", "published", "uniform")


class ScaleWeights(NamedTuple):
    """Weights of the scales.

    Attributes:
        weights: (B, K) float32, positive, each row sums to K: a weight of 1 is the uniform one.
        log_expected: (B, K) float32, logarithm of the distance that the head expects at each scale of an image, which
            the loss fits (:func:`anomalib_scrd.loss.expected_distance_nll`). None unless adaptive.
    """

    weights: torch.Tensor
    log_expected: torch.Tensor | None


class ScaleAdaptation(nn.Module):
    """Weights of the scales from the embedding of the image.

    The paper takes softmax(linear(global max pool of the embedding)) and lets it minimise the weighted loss. What it
    learns then is which scale is easiest: the weight of that scale goes to one and the others stop learning. Here the
    head has a target of its own. It predicts the distance d_k which a NORMAL image like this one shows at each scale,
    fitted by maximum likelihood, and a scale counts in inverse proportion to a power of it:
    ``w_k = K softmax_k(-temperature * log d_k)``. A scale that comes out easy gains weight only until the prediction
    has followed; no weight can lower its own loss.

    Args:
        in_channels: Channels of the embedding.
        num_scales: Number of scales K.
        mode: ``adaptive`` as above; ``published`` for the paper's form; ``uniform`` for ones.
        temperature: Power of the inverse distance, 0 (uniform) or more; adaptive only.
    """

    def __init__(
        self,
        in_channels: int,
        num_scales: int,
        mode: ScaleAdaptationMode = "adaptive",
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if mode not in SCALE_ADAPTATIONS:
            msg = f"scale_adaptation must be one of {SCALE_ADAPTATIONS}, got {mode!r}"
            raise ValueError(msg)
        self.mode = mode
        self.num_scales = num_scales
        self.temperature = temperature
        if mode != "uniform":
            self.linear = nn.Linear(in_channels, num_scales)
            # Zero: training starts from uniform weights.
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: torch.Tensor) -> ScaleWeights:
        """Weigh the scales of each image.

        Args:
            embedding: (B, C, H, W) from the bottleneck.

        Returns:
            The weights, with a gradient only in the published form, and what the head expects.
        """
        if self.mode == "uniform":
            return ScaleWeights(embedding.new_ones(embedding.shape[0], self.num_scales, dtype=torch.float32), None)
        # amax, not adaptive_max_pool2d: the exporters know it at any size.
        pooled = embedding.amax(dim=(-2, -1))
        if self.mode == "published":
            return ScaleWeights(self.num_scales * self.linear(pooled).float().softmax(dim=1), None)
        # Detached and normalised: the head observes the embedding without shaping it, and one optimiser step moves
        # its prediction by about the learning rate whatever the number of channels is.
        observed = F.layer_norm(pooled.detach().float(), pooled.shape[1:]) / pooled.shape[1] ** 0.5
        log_expected = self.linear(observed).float()
        return ScaleWeights(scale_weights(log_expected.detach(), self.temperature), log_expected)


def scale_weights(log_expected: torch.Tensor, temperature: float) -> torch.Tensor:
    """Turn expected distances into weights: ``K softmax_k(-temperature * log d_k)``.

    Args:
        log_expected: (B, K) logarithm of the expected distance of each scale.
        temperature: Power of the inverse distance.

    Returns:
        (B, K), positive, rows sum to K.
    """
    return log_expected.shape[1] * (-temperature * log_expected).softmax(dim=1)
