"""Matrix products instead of interpolation: exact for every precision setting of torch."""

import pytest
import torch

from anomalib_scrd.components.resampling import AxisMatrices, resized


def test_no_setting_of_float32_products_changes_a_map() -> None:
    """`torch.set_float32_matmul_precision`, as Lightning suggests it: TF32 on GPUs, bfloat16 on CPUs that have it."""
    maps = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    reference = AxisMatrices(resized)(maps, (63, 100))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        result = AxisMatrices(resized)(maps, (63, 100))
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(result, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is a GPU's")
def test_tf32_changes_no_map() -> None:
    maps = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    reference = AxisMatrices(resized)(maps, (63, 100))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        result = AxisMatrices(resized)(maps.cuda(), (63, 100)).cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(result, reference, rtol=1e-6, atol=1e-6)
