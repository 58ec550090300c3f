"""The STEm-Seg network: backbone, feature pyramid, squeeze-expand decoders, mixing,
checkpoints."""

from stemseg_ros.models.stemseg.load import CheckpointError, load_network, save_weights
from stemseg_ros.models.stemseg.network import Maps, StemSeg

__all__ = ["CheckpointError", "Maps", "StemSeg", "load_network", "save_weights"]
