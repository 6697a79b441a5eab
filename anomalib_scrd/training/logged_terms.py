"""Names under which the parts of the loss are logged."""

__all__ = ["named_terms"]

from collections.abc import Sequence

import torch

from anomalib_scrd.loss import LossTerms


def named_terms(terms: LossTerms, layers: Sequence[str]) -> dict[str, torch.Tensor]:
    """The parts of the loss by name.

    Args:
        terms: The loss of a step.
        layers: Names of the scales.

    Returns:
        ``pull/LAYER``, ``push/LAYER``, ``restore/LAYER``, ``scale_weight/LAYER``, ``contrast`` and ``ratio``, as far
        as they exist; () each.
    """
    values: dict[str, torch.Tensor] = {}
    for name, label in (("pull", "pull"), ("push", "push"), ("restore", "restore"), ("weights", "scale_weight")):
        per_scale = getattr(terms, name)
        if per_scale is not None:
            values.update({f"{label}/{layer}": value for layer, value in zip(layers, per_scale, strict=True)})
    for name in ("contrast", "ratio"):
        value = getattr(terms, name)
        if value is not None:
            values[name] = value
    return values
