"""Small models and engines for the tests that train."""

from pathlib import Path

import torch
from anomalib.engine import Engine

from anomalib_scrd import ScaleAwareCRD


def build_model(**arguments: object) -> ScaleAwareCRD:
    """A small model with random weights that a seed fixes."""
    torch.manual_seed(0)
    defaults: dict = {
        "backbone": "resnet18",
        "pre_trained": False,
        "student": {"depth": 1},
        "scoring": {"prototypes": 16},
        "visualizer": False,
        "pre_processor": ScaleAwareCRD.configure_pre_processor((64, 64)),
    }
    return ScaleAwareCRD(**merged(defaults, arguments))


def build_quick_model(**arguments: object) -> ScaleAwareCRD:
    """The small model on smaller images, with two scales of equal weight, without prototypes: quick to train.

    Most of a short training is the fitting of the scales' weights before each validation, and the third scale has most
    of the parameters. For tests of the training around the model.
    """
    quick: dict = {
        "layers": ["layer1", "layer2"],
        "scoring": {"scale_adaptation": "uniform", "prototypes": 0},
        "pre_processor": ScaleAwareCRD.configure_pre_processor((32, 32)),
    }
    return build_model(**merged(quick, arguments))


def merged(first: dict, second: dict) -> dict:
    """Arguments in which the second win, field by field in a group."""
    both = {name: first[name] | second[name] for name in first if isinstance(second.get(name), dict)}
    return first | second | both


def build_engine(root: Path, **arguments: object) -> Engine:
    """An engine on the CPU without a progress bar."""
    defaults: dict = {"default_root_dir": root, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    return Engine(**(defaults | arguments))
