"""sqlite3 bags that are cut off anywhere: no error but BagError, no message lost in silence."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import zstandard

from stemseg_ros.errors import BagError
from stemseg_ros.media.bags import INSTANCE_ARRAY, BagReader
from stemseg_ros.media.result_bag import InstanceBagWriter
from stemseg_ros.records import FrameResult, Instance

COUNT = 40
PAGE = 4096


def results(path: Path, mode: str = "delete") -> bytes:
    """Write small messages, several to a page; returns the bytes of the bag."""
    mask = np.zeros((96, 160), np.bool_)
    mask[10:40, 20:60] = True
    with InstanceBagWriter(path) as writer:
        for index in range(COUNT):
            found = tuple(Instance.from_mask(mask, n, n, "car", 0.9) for n in (1, 2))
            writer.write(FrameResult(index, (1 + index) * 10**8, 96, 160, 0, found))
    database = sqlite3.connect(path)
    assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
    database.close()
    return path.read_bytes()


def read(path: Path) -> tuple[list[bytes], list[str]]:
    with BagReader(path, (INSTANCE_ARRAY,)) as bag:
        return [data for _, data in bag.raw()], list(bag.losses)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_bag_that_is_cut_off_within_a_page(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.db3"
    whole = results(path, mode)
    assert len(whole) % PAGE == 0
    expected, losses = read(path)
    assert len(expected) == COUNT and not losses
    counts = set()
    for size in range(PAGE, len(whole), 509):
        path.write_bytes(whole[:size])
        try:
            messages, losses = read(path)
        except BagError:
            continue
        counts.add(len(messages))
        assert messages == expected[: len(messages)], size
        assert losses or len(messages) == COUNT, size
        assert path.stat().st_size == size, "a recording is never changed"
    assert len(counts) > 2, "some cuts leave a part"


@pytest.mark.parametrize("size", [-PAGE // 2, -PAGE - PAGE // 2])
def test_a_compressed_bag_that_was_cut_off_before(tmp_path: Path, size: int) -> None:
    whole = results(tmp_path / "x.db3")
    path = tmp_path / "y.db3.zstd"
    path.write_bytes(zstandard.ZstdCompressor().compress(whole[:size]))
    messages, losses = read(path)
    assert 0 < len(messages) < COUNT and "cut off" in losses[0]
