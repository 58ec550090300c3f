"""Settings of the execution of a network."""

from __future__ import annotations

from typing import Literal

from stemseg_ros.settings import Section


class RuntimeConfig(Section):
    """Where and how the network runs."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Autocast type of the network; outputs are float32 in any case. auto: the shortest type that
    the device computes in natively, so that the last digits differ between machines."""
    channels_last: bool = False
    """Memory format of convolutions."""
    compile: bool = False
    """torch.compile both network functions (slow first window)."""
    fuse: bool = False
    """Fold frozen batch norms into their convolutions (faster; the last digits of float32
    change)."""
