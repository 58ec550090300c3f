"""Several processes that train one network, started by ``torchrun``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from stemseg_ros.errors import DeviceError

START_WITH = "start several processes with torchrun"


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, and which of them this one is; one process alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number on this machine."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def device(self, name: torch.device) -> torch.device:
        """The device of this process: with several, each has a GPU of its own."""
        if name.type == "cuda" and self.size > 1:
            return torch.device("cuda", self.local_rank)
        return name

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Average scalars over all processes."""
        if self.size == 1:
            return values
        stacked = torch.stack([value.detach() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.size, strict=True))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process; the same in all of them."""
        if self.size == 1:
            return flag
        raised = torch.tensor(float(flag), device=device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised.item())

    def gather(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Gather the names of all processes, in order of rank."""
        if self.size == 1:
            return names
        parts: list[tuple[str, ...] | None] = [None] * self.size
        dist.all_gather_object(parts, names)
        return tuple(name for part in parts for name in part or ())


def this_process() -> World:
    """Read from the environment which process of ``torchrun`` this is. Raises DeviceError."""
    try:
        rank, size, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
    except ValueError as error:
        raise DeviceError(f"RANK, WORLD_SIZE or LOCAL_RANK: {error}; {START_WITH}") from error
    return World(rank, size, local)


@contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Connect to the other processes of ``torchrun``, if there are any: NCCL on GPUs, gloo on
    CPUs.

    Raises DeviceError.
    """
    world = this_process()
    if world.size == 1:
        yield world
        return
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if world.local_rank >= gpus:
            raise DeviceError(
                f"process {world.local_rank + 1} on a machine with {gpus} GPU(s); "
                f"torchrun --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(world.device(device))
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:
        raise DeviceError(
            f"WORLD_SIZE is {world.size}, and the other processes cannot be reached: {error}; "
            f"{START_WITH}"
        ) from error
    try:
        with warnings.catch_warnings():
            # Of 1x1x1 convolutions, whose memory format is ambiguous; that costs a small copy.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield world
    finally:
        dist.destroy_process_group()
