"""Golden files of STC and networks with their weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from models.stc.seeded import seeded_weights

from stemseg_ros.models.stc.condinst import CondInst
from stemseg_ros.models.stc.load import COCO, load_network
from stemseg_ros.models.stc.settings import (
    CondInstConfig,
    Settings,
    StcNetworkConfig,
    TrackingConfig,
)

GOLDEN = Path(
    os.environ.get("STEMSEG_GOLDEN_STC", Path(__file__).resolve().parents[2] / "golden" / "stc")
)
Arrays = dict[str, np.ndarray]
Seeded = Callable[[str, Arrays], CondInst]


@pytest.fixture(scope="session")
def stc_golden() -> Callable[[str], Arrays]:
    """Reader of golden files, for example stc_golden("condinst_mmdet")."""

    def read(name: str) -> Arrays:
        with np.load(GOLDEN / f"{name}.npz") as file:
            return dict(file)

    return read


def released_entries(variant: str, classes: int = 80) -> dict[str, torch.Tensor]:
    """Build all entries of the published checkpoints of a variant as zeros, with the shapes of the
    key list; the class layer has ``classes`` rows."""
    entries = {}
    for line in (GOLDEN / f"keys_condinst_{variant}.tsv").read_text().splitlines():
        key, shape = line.split("\t")[:2]
        sides = [int(side) for side in shape.split(",") if side]
        if "conv_cls." in key or "cls_logits." in key:
            sides[0] = classes
        kind = torch.int64 if key.endswith((".num_batches_tracked", "_iter")) else torch.float32
        entries[key] = torch.zeros(sides, dtype=kind)
    return entries


def class_names(count: int) -> tuple[str, ...]:
    """Return the classes of COCO, or ``count`` placeholders."""
    return tuple(COCO) if count == len(COCO) else tuple(f"class {n + 1}" for n in range(count))


def condinst_settings(variant: str, classes: int = 80, backbone: str = "resnet50") -> Settings:
    """Return settings of CondInst without a tracking head."""
    return Settings(
        network=StcNetworkConfig(backbone=backbone, classes=class_names(classes)),
        condinst=CondInstConfig(variant=variant),
        tracking=TrackingConfig(enabled=False),
    )


@pytest.fixture(scope="session")
def seeded_condinst(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    """Factory seeded_condinst(variant, golden): R-50 with the seeded weights of a golden file,
    loaded from a checkpoint file in the format of that implementation."""

    @lru_cache
    def load(variant: str, salt: str, classes: int) -> CondInst:
        state = seeded_weights(released_entries(variant, classes), salt)
        path = tmp_path_factory.mktemp("stc") / f"{variant}.pth"
        torch.save({"meta": {}, "state_dict": state} if variant == "mmdet" else state, path)
        return load_network(condinst_settings(variant, classes), path)

    return lambda variant, golden: load(variant, str(golden["salt"]), int(golden["classes"]))
