"""The real node and model around a fake engine that reads objects off their colours. Takes images
of 36 x 64 pixels."""

from __future__ import annotations

import sys

from colour_engine import colour_model

from stemseg_ros.config import Config
from stemseg_ros.models.stemseg.settings import own_settings
from stemseg_ros.stream import Model


def open_colour_model(config: Config, checkpoint: str | None, device: str) -> Model:
    return colour_model(own_settings(config))


if __name__ == "__main__":
    from stemseg_ros.ros.node import main

    sys.exit(main(model_opener=open_colour_model))
