"""Weights that a run starts from (``training.start_from``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from stemseg_ros.models.layers.weight_files import checked_state, read_content, state_of
from stemseg_ros.models.layers.weights import load_state
from stemseg_ros.models.stemseg.load import IGNORED_PREFIX
from stemseg_ros.models.stemseg.network import WindowNetwork

_log = logging.getLogger(__name__)

BACKBONE = "backbone."
OUTPUT_LAYERS = (
    "embedding_head.conv_embedding.",
    "embedding_head.conv_variance.",
    "semseg_head.conv_out.",
)
"""Keys of the layers whose size follows from ``network.mixing`` and ``network.classes``."""
NORM_KEY = ".running_var"
"""Ends the keys of frozen batch norms, which a run has unless it folds them."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Weights of a file; ``folded`` where batch norms are folded away, as in a training run."""

    path: Path
    state: dict[str, Tensor]
    folded: bool

    def load_plain(self, network: WindowNetwork) -> None:
        """Copy weights in the layout of shipped checkpoints, of the whole network or of the
        backbone alone. Raises CheckpointError."""
        if self.folded:
            return
        if any("_head." in key for key in self.state):
            self._load(network)
        else:
            part = {key.removeprefix(BACKBONE): value for key, value in self.state.items()}
            load_state(network.backbone, part, self.path, network.config.name)

    def load_folded(self, network: WindowNetwork) -> None:
        """Copy weights of a training run into a network with folded norms. Raises
        CheckpointError."""
        if self.folded:
            self._load(network)

    def _load(self, network: WindowNetwork) -> None:
        """Copy weights of the whole network, but for output layers of other classes or another
        mixing function: those stay as they are, fresh, and a warning names them."""
        ours = network.state_dict()
        fresh = [
            key
            for key, value in self.state.items()
            if key.startswith(OUTPUT_LAYERS) and key in ours and ours[key].shape != value.shape
        ]
        if fresh:
            _log.warning(
                "%s: written for other classes or another mixing function; %s start anew",
                self.path,
                ", ".join(fresh),
            )
        state = {**self.state, **{key: ours[key] for key in fresh}}
        load_state(network, state, self.path, network.config.name)


def read_start(path: Path) -> Start:
    """Weights of a .safetensors or .pth file, or the average of a run's checkpoint. Raises
    CheckpointError."""
    content = read_content(path)
    if isinstance(content, Mapping) and "average" in content:
        average = checked_state(content["average"], path)
        return Start(path, average, folded=not any(key.endswith(NORM_KEY) for key in average))
    plain = state_of(content, path)
    return Start(
        path,
        {key: value for key, value in plain.items() if not key.startswith(IGNORED_PREFIX)},
        folded=False,
    )
