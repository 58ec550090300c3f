"""Which windows a stream is cut into, and which of their frames come out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemseg_ros.models.stemseg.settings import WindowConfig
from stemseg_ros.models.stemseg.tensors import Features, Window
from stemseg_ros.models.stemseg.window import WindowBuffer, real_slots

NOTHING: Any = Features(())  # type: ignore[arg-type]


def cut(frames: int, config: WindowConfig) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(indices, indices of the frames that come out) of each window of a stream."""
    buffer = WindowBuffer(config)
    windows = [buffer.push(index, NOTHING) for index in range(frames)] + [buffer.flush()]
    return [
        (w.indices, tuple(w.indices[slot] for slot in w.new))
        for w in windows
        if isinstance(w, Window)
    ]


CASES = [
    (
        "two regular windows",
        6,
        WindowConfig(length=4, overlap=2),
        [((0, 1, 2, 3), (0, 1, 2, 3)), ((2, 3, 4, 5), (4, 5))],
    ),
    (
        "the last is aligned with the end",
        7,
        WindowConfig(length=4, overlap=2),
        [((0, 1, 2, 3), (0, 1, 2, 3)), ((2, 3, 4, 5), (4, 5)), ((3, 4, 5, 6), (6,))],
    ),
    (
        "a short stream is padded at the front",
        2,
        WindowConfig(length=4, overlap=2),
        [((0, 0, 0, 1), (0, 1))],
    ),
    ("one frame", 1, WindowConfig(length=4, overlap=2), [((0, 0, 0, 0), (0,))]),
    ("no frame", 0, WindowConfig(length=4, overlap=2), []),
    ("no overlap", 4, WindowConfig(length=2, overlap=0), [((0, 1), (0, 1)), ((2, 3), (2, 3))]),
    (
        "online: a window for every frame",
        3,
        WindowConfig(length=2, overlap=0, mode="online"),
        [((0, 0), (0,)), ((0, 1), (1,)), ((1, 2), (2,))],
    ),
]


@pytest.mark.parametrize(
    ("frames", "config", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_windows(frames: int, config: WindowConfig, expected: list[Any]) -> None:
    assert cut(frames, config) == expected


def test_stream_goes_on_after_a_flush() -> None:
    buffer = WindowBuffer(WindowConfig(length=4, overlap=2))
    assert [buffer.push(i, NOTHING) for i in range(2)] == [None, None]
    first = buffer.flush()
    assert first is not None and first.indices == (0, 0, 0, 1)
    assert buffer.flush() is None
    third = [buffer.push(i, NOTHING) for i in (2, 3)][1]
    assert third is not None and third.indices == (0, 1, 2, 3) and third.new == (2, 3)


@given(
    frames=st.integers(0, 40),
    length=st.sampled_from([2, 4, 8]),
    overlap=st.integers(0, 7),
    mode=st.sampled_from(["near_online", "online", "offline"]),
)
def test_every_frame_comes_out_once_and_in_order(
    frames: int, length: int, overlap: int, mode: str
) -> None:
    config = WindowConfig.model_validate(
        {"length": length, "overlap": overlap % length, "mode": mode}
    )
    windows = cut(frames, config)
    assert [index for _, new in windows for index in new] == list(range(frames))
    assert all(
        len(indices) == length and list(indices) == sorted(indices) for indices, _ in windows
    )


@pytest.mark.parametrize(
    ("indices", "slots"), [((0, 0, 0, 1), [2, 3]), ((3, 4, 5, 6), [0, 1, 2, 3]), ((5, 5), [1])]
)
def test_real_slots_are_the_last_of_each_index(indices: tuple[int, ...], slots: list[int]) -> None:
    assert real_slots(indices) == slots
