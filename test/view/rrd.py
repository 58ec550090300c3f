"""Recordings of the viewer, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rerun.chunk import RrdReader

Rows = dict[str, dict[int, dict[str, Any]]]
"""{entity: {frame: {component: values}}}"""
TIMES = ("frame", "stamp", "log_time")


def read(path: Path) -> Rows:
    rows: Rows = {}
    for chunk in RrdReader(path).stream().to_chunks():
        if chunk.is_static:
            continue
        batch = chunk.to_record_batch()
        columns = {
            name: (batch[name].cast("int64") if name in TIMES else batch[name]).to_pylist()
            for name in batch.schema.names
        }
        for row, number in enumerate(columns["frame"]):
            there = rows.setdefault(chunk.entity_path, {}).setdefault(number, {})
            there |= {name: values[row] for name, values in columns.items()}
    return {entity: dict(sorted(frames.items())) for entity, frames in rows.items()}


def labels(row: dict[str, Any]) -> np.ndarray:
    """(H, W) of track ids."""
    shape = [row["SegmentationImage:format"][0][name] for name in ("height", "width")]
    data = bytes(row["SegmentationImage:buffer"][0])
    wide = len(data) == 2 * shape[0] * shape[1]
    return np.frombuffer(data, np.uint16 if wide else np.uint8).reshape(shape)


def values(rows: Rows, entity: str) -> dict[int, float]:
    """The scalar of each frame."""
    return {index: row["Scalars:scalars"][0] for index, row in rows[entity].items()}
