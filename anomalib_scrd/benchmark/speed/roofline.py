"""What operations and bytes allow at the rates that the device was measured to have."""

__all__ = ["OperationCounter", "Rates", "measure_rates"]

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import flop_registry

from anomalib_scrd.benchmark.speed.config import Precision

_DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
_SECONDS = 0.5


@dataclass(frozen=True)
class Rates:
    """Rates of a device.

    Args:
        flops: Operations per second of a large matrix product.
        bandwidth: Bytes per second of a large copy, reads and writes together.
    """

    flops: float
    bandwidth: float

    def __str__(self) -> str:
        """The rates in words."""
        return f"{self.flops / 1e12:.3g} TFLOP/s, {self.bandwidth / 1e9:.3g} GB/s measured"


def measure_rates(device: torch.device, precision: Precision) -> Rates:
    """Measure the rates of a device.

    Args:
        device: The device.
        precision: Of the matrix product.

    Returns:
        The rates that a large matrix product and a large copy reach.
    """
    side, length = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)
    first, second, product = (torch.rand(side, side, device=device).to(_DTYPES[precision]) for _ in range(3))
    source = torch.rand(length, device=device)
    target = torch.empty_like(source)

    def seconds(statement: str, **variables: torch.Tensor) -> float:
        timer = Timer(statement, globals={"torch": torch, **variables}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=_SECONDS).median

    return Rates(
        flops=2 * side**3 / seconds("torch.mm(a, b, out=c)", a=first, b=second, c=product),
        bandwidth=2 * source.nbytes / seconds("b.copy_(a)", a=source, b=target),
    )


class OperationCounter(TorchDispatchMode):
    """Counts floating point operations and bytes of everything that runs inside, backward passes included.

    Args:
        rates: Rates of the device.

    Attributes:
        flops: Operations, by torch's own formulas (matrix products and convolutions; the rest is bound by memory).
        bytes: Bytes that the operations read and write, each by itself.
        seconds: Sum over the operations of what takes longer at these rates, their operations or their bytes.
    """

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.rates = rates
        self.flops = 0
        self.bytes = 0
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        flops = 0 if formula is None else int(formula(*args, **kwargs, out_val=result))
        size = 0
        if not (func.is_view or func.overloadpacket in _FREE):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.flops += flops
        self.bytes += size
        self.seconds += max(flops / self.rates.flops, size / self.rates.bandwidth)
        return result


_FREE = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty, torch.ops.aten.detach}
