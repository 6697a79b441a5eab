"""Stable names of the outputs of an OpenVINO model."""

__all__ = ["keep_names_of_outputs"]

from collections.abc import Collection
from typing import Any


def keep_names_of_outputs(model: Any, outputs: Collection[str]) -> None:
    """Remove the names of all tensors other than inputs and outputs from an OpenVINO model.

    If the input's shape is fixed, batch included, OpenVINO drops the last operation of the post-processing when it
    compiles the model, and the output has the names of the tensors before it in addition to its own. anomalib's
    ``OpenVINOInferencer`` takes any of them, which differs between processes.

    Args:
        model: ``openvino.Model``; changed in place.
        outputs: Names of its outputs.

    Raises:
        ValueError: If the model has an output with none of these names.
    """
    wanted = set(outputs)
    nameless = [output.names for output in model.outputs if not output.names & wanted]
    if nameless:
        msg = f"the model's outputs must be among {sorted(wanted)}, got one that is named {sorted(nameless[0])}"
        raise ValueError(msg)
    for node in model.get_ops():
        if node.get_type_name() in {"Parameter", "Result"}:
            continue
        for output in node.outputs():
            tensor = output.get_tensor()
            if tensor.names:
                tensor.set_names(tensor.names & wanted)
