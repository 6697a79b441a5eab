"""Checkpoints of anomalib that load whatever they were trained with."""

__all__ = ["keep_own_evaluator"]

from collections.abc import MutableMapping
from typing import Any

from torch import nn

_EVALUATOR = "evaluator."


def keep_own_evaluator(model: nn.Module, checkpoint: MutableMapping[str, Any]) -> None:
    """Let a checkpoint load into a model with another evaluator than it was trained with.

    Some metrics keep a setting among the weights (``evaluator.test_metrics.0.fpr_limit``), and loading is strict. An
    evaluator belongs to whoever loads the model, as anomalib has it: its state never comes from a checkpoint.

    Args:
        model: The model that will load the checkpoint.
        checkpoint: Lightning's, with a ``state_dict``; changed in place.
    """
    state = checkpoint["state_dict"]
    for name in [name for name in state if name.startswith(_EVALUATOR)]:
        del state[name]
    state.update((name, value) for name, value in model.state_dict().items() if name.startswith(_EVALUATOR))
