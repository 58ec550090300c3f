"""The STEm-Seg network: backbone, feature pyramid, squeeze-expand decoders, mixing,
checkpoints."""

from stemseg_ros.network.build import Maps, StemSeg
from stemseg_ros.network.checkpoint import CheckpointError, load_network, save_weights

__all__ = ["CheckpointError", "Maps", "StemSeg", "load_network", "save_weights"]
