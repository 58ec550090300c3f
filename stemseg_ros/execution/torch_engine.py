"""Engine of PyTorch: autocast, memory format, folded norms, torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from stemseg_ros.execution.device import resolve_device, resolve_precision
from stemseg_ros.execution.settings import RuntimeConfig
from stemseg_ros.models.layers.norms import fuse_frozen_norms

Tensors = tuple[Tensor, ...]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MEMORY_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class TorchEngine:
    """Engine that runs a network eagerly, or compiled with ``runtime.compile``."""

    def __init__(
        self,
        network: nn.Module,
        config: RuntimeConfig,
        device: str | torch.device,
        *,
        timed: bool = False,
    ) -> None:
        """See ``open_engine``."""
        self.device = resolve_device(device)
        self._timed = timed and self.device.type == "cuda"
        self._channels_last = config.channels_last
        finalise(network, config)
        network.to(self.device)
        if config.channels_last:
            to_channels_last(network)
        names = cast(tuple[str, ...], network.functions)
        functions: dict[str, Callable[..., Tensors]] = {n: getattr(network, n) for n in names}
        self._functions = (
            {n: torch.compile(function) for n, function in functions.items()}
            if config.compile
            else functions
        )
        self.precision = resolve_precision(config.precision, self.device)
        self._dtype = DTYPES[self.precision]
        if config.threads:
            torch.set_num_threads(config.threads)
        compiled = ", compiled" if config.compile else ""
        self.description = f"PyTorch {torch.__version__} on {self.device}{compiled}"

    @torch.inference_mode()
    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        """See ``Engine``."""
        inputs = [self._batch(items) for items in zip(*batch, strict=True)]
        mixed = self._dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=mixed):
            outputs = self._functions[function](*inputs)
        if self._timed:
            torch.cuda.synchronize(self.device)
        return [tuple(output[n] for output in outputs) for n in range(len(batch))]

    def _batch(self, items: Sequence[Tensor]) -> Tensor:
        batch = items[0].unsqueeze(0) if len(items) == 1 else torch.stack(list(items))
        if self._channels_last and batch.ndim in MEMORY_FORMATS:
            return batch.contiguous(memory_format=MEMORY_FORMATS[batch.ndim])
        return batch


def finalise(network: nn.Module, config: RuntimeConfig) -> None:
    """Prepare a network for inference, in place: eval mode, no gradients, folded norms."""
    network.eval().requires_grad_(False)
    if config.fuse:
        fuse_frozen_norms(network)


def to_channels_last(network: nn.Module) -> None:
    """Convert the weights of all convolutions to the channels-last memory format, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
