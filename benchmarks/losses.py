"""What the embedding losses cost, against the number of instances.

    python benchmarks/losses.py                     # one core of the CPU
    python benchmarks/losses.py --device cuda

Forward and backward pass of ``embedding_loss`` on a batch as large as that of ``lite``, beside a
plain loop over instances that follows the formulas of Sec. 3.4. Outputs are those of an untrained
network, whose Gaussians reach far; training makes both cheaper. On the CPU time is processor time
of one thread, so that other programs on the machine do not count, and every case has a process of
its own, whose peak memory is read.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from stemseg_ros.geometry import GRID_STRIDE
from stemseg_ros.models.stemseg.losses import embedding_loss
from stemseg_ros.models.stemseg.mixing import coordinate_grid
from stemseg_ros.models.stemseg.network import BANDWIDTH_SCALE
from stemseg_ros.models.stemseg.settings import Settings, load_settings

SIGMA = (0.08, 2.3)
"""Standard deviations in the plane and in time, in units of the grid: those that lite starts
with."""
FILLED = 0.5
"""Share of the frame that instances cover."""

Loss = Callable[[Tensor, Tensor, Settings], Tensor]


def scene(instances: int, config: Settings, windows: int, device: str) -> tuple[Tensor, Tensor]:
    """Network output (N, 7, T, h, w) that wants a gradient, and masks (N, I, T, h, w) of
    rectangles."""
    generator = torch.Generator().manual_seed(0)
    height, width = (side // GRID_STRIDE for side in config.training.crop)
    shape = (config.window.length, height, width)
    grid = coordinate_grid("xyt", shape, "pixels", torch.tensor(1.0))
    embeddings = grid + 0.05 * torch.randn(windows, 3, *shape, generator=generator)
    raw = torch.tensor([SIGMA[1], SIGMA[0], SIGMA[0]]).pow(-2).div(BANDWIDTH_SCALE).log()
    variance = raw[:, None, None, None].expand(windows, -1, *shape)
    heat = torch.rand(windows, 1, *shape, generator=generator)
    masks = torch.zeros(windows, instances, *shape, dtype=torch.uint8)
    side = max(2, int((FILLED * height * width / instances) ** 0.5))
    for window in masks:
        for mask in window:
            top = int(torch.randint(height - side + 1, (), generator=generator))
            left = int(torch.randint(width - side + 1, (), generator=generator))
            window[:, :, top : top + side, left : left + side] = 0
            mask[:, top : top + side, left : left + side] = 1
    output = torch.cat([embeddings, variance, heat], dim=1).to(device)
    return output.requires_grad_(), masks.to(device)


def vectorised(output: Tensor, masks: Tensor, config: Settings) -> Tensor:
    ignore = torch.zeros(masks[:, 0].shape, dtype=torch.bool, device=masks.device)
    return embedding_loss(output, masks, ignore, config)["embedding"]


def plain(output: Tensor, masks: Tensor, config: Settings) -> Tensor:
    """The same losses, instance by instance."""
    training = config.training
    hinges, smoothness, heat = [], [], []
    for sample, sample_masks in zip(output.flatten(2), masks.flatten(2).bool(), strict=True):
        embeddings, raw, heatmap = sample[:3], sample[3:6], sample[6]
        variances = []
        for mask in sample_masks:
            if not mask.any():
                continue
            center = embeddings[:, mask].mean(1, keepdim=True)
            precision = (BANDWIDTH_SCALE * raw[:, mask].exp()).mean(1, keepdim=True)
            distance = ((embeddings - center).square() * precision).sum(0)
            probability = torch.exp(-0.5 * distance)
            hinges.append(_hinge(2 * probability - 1, mask.float()))
            variances.append((raw[:, mask] - raw[:, mask].mean(1, keepdim=True)).square().mean())
            heat.append((heatmap[mask] - probability[mask].detach()).square().mean())
        smoothness.append(torch.stack(variances).mean())
        heat.append(heatmap[~sample_masks.any(0)].square().mean())
    return (
        training.lovasz_weight * torch.stack(hinges).mean()
        + training.smoothness_weight * torch.stack(smoothness).mean()
        + training.heatmap_weight * torch.stack(heat).sum() / (len(hinges) + 1)
    )


def _hinge(logits: Tensor, truth: Tensor) -> Tensor:
    errors, order = (1 - logits * (2 * truth - 1)).sort(descending=True)
    truth = truth[order]
    jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
    steps = torch.cat([jaccard[:1], jaccard.diff()])
    return torch.dot(errors.relu(), steps)


def measure(
    loss: Loss, instances: int, config: Settings, windows: int, device: str
) -> tuple[float, float, float]:
    """Milliseconds, peak memory in MB, and the loss."""
    output, masks = scene(instances, config, windows, device)
    value = loss(output, masks, config)
    value.backward()
    cuda = device != "cpu"
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    began = clock()
    for _ in range(3):
        loss(output, masks, config).backward()
    if cuda:
        torch.cuda.synchronize()
    spent = (clock() - began) / 3
    peak = torch.cuda.max_memory_allocated() - held if cuda else 0
    return 1e3 * spent, peak / 1e6, float(value.detach())


def in_own_process(loss: Loss, instances: int, config: Settings, windows: int) -> list[float]:
    """The same on the CPU, with the growth of a fresh process as its memory."""
    # Not a fork, which lacks the threads that the libraries of its parent have started.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure_and_send, args=(sender, loss, instances, config, windows)
    )
    process.start()
    sender.close()  # else the end of a process that fails would not be noticed
    result: list[float] = receiver.recv()
    process.join()
    return result


def _measure_and_send(
    sender: Connection, loss: Loss, instances: int, config: Settings, windows: int
) -> None:
    torch.set_num_threads(1)
    scene(instances, config, windows, "cpu")  # its own memory does not count
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    milliseconds, _, value = measure(loss, instances, config, windows, "cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sender.send([milliseconds, peak * 1024 / 1e6, value])


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    windows: Annotated[int, typer.Option(min=1, help="Windows of a batch.")] = 2,
    instances: Annotated[
        list[int] | None, typer.Option(help="Instances of a window; may be repeated.")
    ] = None,
) -> None:
    torch.set_num_threads(1)
    config = load_settings(
        "lite",
        {
            "network.mixing": "xyt",  # as in the scene
            "training.min_instance_cells": 0,
            "training.size_power": 0.0,
            "training.heatmap_target": "probability",
        },
    )
    height, width = config.training.crop
    table = Table(title=f"{windows} windows of {config.window.length} x {height} x {width}")
    columns = ("instances", "ms", "MB", "loop: ms", "loop: MB", "difference of the losses")
    for column in columns:
        table.add_column(column, justify="right")
    for count in instances or (1, 3, 10, 30, 100):
        cases = [
            in_own_process(loss, count, config, windows)
            if device == "cpu"
            else measure(loss, count, config, windows, device)
            for loss in (vectorised, plain)
        ]
        (ms, memory, value), (loop_ms, loop_memory, loop_value) = cases
        cells = (f"{ms:.0f}", f"{memory:.0f}", f"{loop_ms:.0f}", f"{loop_memory:.0f}")
        table.add_row(str(count), *cells, f"{abs(value - loop_value) / loop_value:.1e}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
