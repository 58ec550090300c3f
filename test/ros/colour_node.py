"""The real node and pipeline around a stand-in for the network that reads objects off their
colours. Takes images of 36 x 64 pixels."""

from __future__ import annotations

import sys

from colour_network import ColourNetwork
from stemseg_ros.models.stemseg.pipeline import Pipeline

from stemseg_ros.config import Config


def make_pipeline(config: Config, checkpoint: str | None, device: str) -> Pipeline:
    return Pipeline(config, network=ColourNetwork(config))


if __name__ == "__main__":
    from stemseg_ros.ros.node import main

    sys.exit(main(make_pipeline=make_pipeline))
