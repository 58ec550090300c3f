"""The network of STEm-Seg against the authors' released code, on the CPU, in one run.

    git clone https://github.com/sabarim/STEm-Seg          # it has no licence: copy nothing
    python -m benchmarks.released STEm-Seg --json out/released.json

Both get the same seeded weights of the KITTI-MOTS model (R-101, T = 8, overlap 4) and the same
frames of 640x192, and do what a stream does: encode every frame once, decode windows that share
four frames. Clustering and linking are left out. Contestants are interleaved window by window; the
figures are medians, and their ratios to the released code. The outputs of each are compared with
those of the released code. Its inference code runs unchanged; modules that only its training needs
are replaced by mocks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Protocol
from unittest.mock import MagicMock, patch

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.speed import check_load
from stemseg_ros.cli.options import JsonOption
from stemseg_ros.errors import StemsegError
from stemseg_ros.execution.comparison import relative_difference
from stemseg_ros.execution.engine import Tensors, open_engine
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.models.stemseg.settings import load_settings

PRESET, LENGTH, OVERLAP = "kitti_mots", 8, 4
SIZE = (192, 640)
"""Height and width of the network input."""
TRAINING_ONLY = (
    "imgaug",
    "imgaug.augmenters",
    "imgaug.augmentables",
    "imgaug.augmentables.segmaps",
)
"""Modules that the released code imports for training."""
CONTESTANTS: dict[str, dict[str, Any]] = {
    "torch, float32, without taps": {"runtime.engine": "torch", "window.taps": False},
    "torch, float32": {"runtime.engine": "torch"},
    "torch, auto": {"runtime.engine": "torch", "runtime.precision": "auto"},
    "openvino, float32": {"runtime.engine": "openvino"},
    "openvino, auto": {"runtime.engine": "openvino", "runtime.precision": "auto"},
}


class Contestant(Protocol):
    """Encodes frames and decodes windows of them."""

    def encode(self, image: Tensor) -> Any:
        """Compute the features of a network input (3, H, W)."""
        ...

    def decode(self, window: Sequence[Any]) -> Tensors:
        """Compute embeddings and semantic logits, (C, T, h, w), from the features of a window's
        frames."""
        ...


@dataclass(slots=True)
class Measured:
    """Measurements of one contestant."""

    name: str
    milliseconds: list[float] = field(default_factory=list)
    """Per frame, one value for each window."""
    ratio: float = 1.0
    """How many times as fast as the released code, by the medians."""
    difference: float = 0.0
    """Largest difference of an output from the released code's, relative to the largest value."""


class Released:
    """The authors' network, from a checkout of their repository."""

    def __init__(self, checkout: Path, weights: dict[str, Tensor]) -> None:
        """Build the network. Raises StemsegError if this is not such a checkout."""
        if not (checkout / "stemseg" / "modeling").is_dir():
            raise StemsegError(
                f"{checkout}: no stemseg/modeling in it; expected a clone of STEm-Seg"
            )
        sys.path.insert(0, str(checkout))
        for name in TRAINING_ONLY:
            sys.modules.setdefault(name, MagicMock())
        # Their name is that of this project's messages, which must not be imported before.
        with patch.object(yaml, "load", partial(_load_yaml, yaml.load)):
            settings = import_module("stemseg.config").cfg
            settings.merge_from_file(str(checkout / "stemseg" / "config" / "kitti_mots_2.yaml"))
            builder = import_module("stemseg.modeling.model_builder")
            self._model = builder.build_model(restore_pretrained_backbone_wts=False).eval()
        self._model.load_state_dict(weights)
        self._wrap = import_module("stemseg.structures.image_list").ImageList

    def encode(self, image: Tensor) -> Any:
        """See ``Contestant``."""
        images = self._wrap(image[None, None], [tuple(image.shape[-2:])])
        return self._model.run_backbone(images)

    def decode(self, window: Sequence[Any]) -> Tensors:
        """See ``Contestant``."""
        model = self._model
        stacked = {scale: torch.stack([maps[scale] for maps in window], 2) for scale in window[0]}
        semantic = model.semseg_head([stacked[s] for s in model.semseg_feature_map_scale])
        scales = model.embedding_head_feature_map_scale
        embedding = model.embedding_head([stacked[s] for s in scales])
        size = model.embedding_head.embedding_size
        return embedding[0, :size], semantic[0]


class Ours:
    """The network of this project in an engine."""

    def __init__(self, changes: dict[str, Any]) -> None:
        config = load_settings(PRESET, changes)
        self._engine = open_engine(load_network(config, "random"), config.runtime, "cpu")

    def encode(self, image: Tensor) -> Any:
        """See ``Contestant``."""
        return self._engine.run("encode", [(image,)])[0]

    def decode(self, window: Sequence[Any]) -> Tensors:
        """See ``Contestant``."""
        maps = tuple(level for frame in window for level in frame)
        outputs = self._engine.run("decode", [maps])[0]
        return outputs[0], outputs[3]


def _load_yaml(load: Callable[..., Any], text: Any, loader: Any = yaml.SafeLoader) -> Any:
    """Load YAML without a loader argument, like older versions of PyYAML."""
    return load(text, loader)


class Feed:
    """Stream of windows through one contestant."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._kept: list[Any] = []

    def advance(self, images: Sequence[Tensor]) -> tuple[float, Tensors]:
        """Encode new frames and decode the window that ends with them; returns milliseconds per
        new frame, and the outputs."""
        begin = time.perf_counter()
        with torch.inference_mode():
            new = [self._contestant.encode(image) for image in images]
            self._kept = [*self._kept, *new][-LENGTH:]
            outputs = self._contestant.decode(self._kept)
        return 1e3 * (time.perf_counter() - begin) / len(images), outputs


def compare(feeds: dict[str, Feed], windows: int) -> list[Measured]:
    """Measure contestants, interleaved window by window; the first is the reference."""
    generator = torch.Generator().manual_seed(0)
    measured = [Measured(name) for name in feeds]
    for number in range(windows + 1):
        new = LENGTH - OVERLAP if number else LENGTH
        images = [60 * torch.randn(3, *SIZE, generator=generator) for _ in range(new)]
        first: Tensors = ()
        for one, feed in zip(measured, feeds.values(), strict=True):
            spent, outputs = feed.advance(images)
            first = first or outputs
            differences = map(relative_difference, outputs, first)
            one.difference = max(one.difference, *differences)
            if number:  # the first window is the warm-up
                one.milliseconds.append(spent)
    for one in measured:
        one.ratio = median(measured[0].milliseconds) / median(one.milliseconds)
    return measured


def main(
    checkout: Annotated[Path, typer.Argument(help="A clone of the released code.")],
    windows: Annotated[int, typer.Option(min=1, help="Windows that are timed.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Contestants by name.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Compare the released network with ours, in several engines."""
    console = Console(highlight=False)
    load = check_load(console)
    weights = load_network(load_settings(PRESET), "random").state_dict()
    try:
        feeds = {"released code": Feed(Released(checkout, weights))}
        for name in only or CONTESTANTS:
            feeds[name] = Feed(Ours(CONTESTANTS[name]))
        measured = compare(feeds, windows)
    except StemsegError as error:
        console.print(f"[red]error[/red] {error}")
        raise typer.Exit(2) from error
    table = Table("contestant", "ms a frame", "times as fast", "largest difference")
    for one in measured:
        spent = f"{median(one.milliseconds):.0f}"
        table.add_row(one.name, spent, f"{one.ratio:.2f}", f"{one.difference:.1e}")
    console.print(table)
    if json_file is not None:
        rows = [{"name": m.name, "ms": m.milliseconds, "ratio": m.ratio} for m in measured]
        content = {"load_per_cpu": load, "torch": torch.__version__, "contestants": rows}
        json_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
