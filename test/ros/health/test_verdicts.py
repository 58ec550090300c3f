"""What counts as lack of memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("rclpy", reason="needs ROS 2")

from stemseg_ros.ros.health.verdicts import is_memory_error

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `...`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_lack_of_memory(error: Exception, is_one: bool) -> None:
    assert is_memory_error(error) == is_one


def test_lack_of_memory_of_the_cpu() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**46)
    assert is_memory_error(raised.value)
