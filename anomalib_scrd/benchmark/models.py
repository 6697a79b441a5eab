"""Builds objects from import paths and arguments, like anomalib's command line."""

__all__ = ["build", "build_model", "find_class"]

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from anomalib.models import AnomalibModule
from jsonargparse import ArgumentParser
from omegaconf import OmegaConf


def find_class(class_path: str, base: type, default_module: str) -> Any:
    """Import a class by its path, or by its name in ``default_module``.

    Raises:
        ValueError: If there is no such class, or it is not derived from ``base``.
    """
    module, _, name = class_path.rpartition(".")
    cls = getattr(import_module(module or default_module), name, None)
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        msg = f"class_path {class_path!r} must name a subclass of {base.__name__}, found {cls!r}"
        raise ValueError(msg)
    return cls


def build(cls: Any, init_args: Mapping[str, Any], **components: Any) -> Any:
    """Build an object of a class.

    Args:
        cls: The class.
        init_args: Arguments as in a YAML file, checked and converted as on the command line.
        components: Arguments that are passed unchanged if the class takes them.
    """
    known = inspect.signature(cls).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        components = {name: value for name, value in components.items() if name in known}
    given: Any = OmegaConf.to_container(OmegaConf.create(dict(init_args)), resolve=True)
    parser = ArgumentParser(exit_on_error=False)
    skip: set[str | int] = set(components.keys() & known.keys())
    parser.add_class_arguments(cls, "init_args", skip=skip, instantiate=False, fail_untyped=False)
    parsed = parser.instantiate_classes(parser.parse_object({"init_args": given}))["init_args"]
    return cls(**{name: parsed[name] for name in given}, **components)


def build_model(
    class_path: str, init_args: Mapping[str, Any], image_size: Sequence[int], *, post_processor: bool = False
) -> AnomalibModule:
    """Build a model with the default pre-processor of its class and without evaluator and visualizer.

    Args:
        class_path: See :class:`~anomalib_scrd.benchmark.descriptions.Entry`.
        init_args: See there.
        image_size: (height, width) to which the pre-processor resizes.
        post_processor: Whether the model gets its default post-processor. Without it the scores are raw, neither
            normalised nor clipped.
    """
    cls = find_class(class_path, AnomalibModule, "anomalib.models")
    components = {
        "pre_processor": cls.configure_pre_processor(image_size=tuple(image_size)),
        "post_processor": post_processor,
        "evaluator": False,
        "visualizer": False,
    }
    model = build(cls, init_args, **components)
    for name, component in components.items():  # also if the class has no such argument
        if component is not True:
            setattr(model, name, component or None)
    return model
