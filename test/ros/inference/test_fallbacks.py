"""What counts as lack of memory, and what is tried then."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stemseg_ros.config import load_config
from stemseg_ros.ros.inference.fallbacks import Fallbacks, is_memory_error


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


@pytest.mark.parametrize(
    ("policy", "device", "steps"),
    [
        ("smaller_then_cpu", "cuda:0", [(70, "cuda:0"), (50, "cuda:0"), (100, "cpu")]),
        ("smaller_then_cpu", "cpu", [(70, "cpu"), (50, "cpu")]),
        ("smaller", "cuda:1", [(70, "cuda:1"), (50, "cuda:1")]),
        ("cpu", "cuda:0", [(100, "cpu")]),
        ("cpu", "cpu", []),
        ("error", "cuda:0", []),
    ],
)
def test_fallbacks_in_order(policy: str, device: str, steps: list[Any]) -> None:
    config = load_config("lite", {"input.min_dim": 100, "input.max_dim": 200})
    fallbacks = Fallbacks(policy)
    assert not fallbacks.active
    for size, where in steps:
        assert fallbacks.lower(device)
        assert fallbacks.active
        assert fallbacks.config(config).input.min_dim == size
        assert fallbacks.config(config).input.max_dim == 2 * size
        assert fallbacks.device(device) == where
    assert not fallbacks.lower(device)
