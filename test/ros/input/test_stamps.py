"""What a stamp means after those before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemseg_ros.ros.input.stamps import StampOrder

GAP = 10.0
N, D, L, B, A = "next", "duplicate", "late", "jump back", "jump ahead"


def judge(stamps: list[float], gap: float = GAP) -> list[str]:
    order = StampOrder()
    return [order.step(round(1e9 * stamp), round(1e9 * gap)) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamps", "steps", "gap"),
    [
        ([5, 5.1, 5.2], [N, N, N], GAP),  # a camera
        ([5, 5.1, 5.1, 5.2], [N, N, D, N], GAP),
        ([0, 0, 0], [N, N, N], GAP),  # a driver that sets no stamps
        ([5.1, 5.3, 5.2, 5.4], [N, N, L, N], GAP),  # two exchanged frames
        ([5.1, 5.4, 5.2, 5.3, 5.5], [N, N, L, L, N], GAP),
        ([5.1, 5.3, 5.2, 5.2, 5.4], [N, N, L, L, N], GAP),
        ([5, 14, 5, 5.1], [N, N, B, N], GAP),  # a bag loop
        ([5, 5.1, 5.2, 5, 5.1, 5.2, 5.3], [N, N, N, L, L, D, N], GAP),  # tiny bag: see below
        ([5, 5.1, 5.2, 5.3, 5, 5.1, 5.2], [N, N, N, N, L, L, B], GAP),  # a bag loop below a second
        ([5, 15, 25.1], [N, N, A], GAP),
        ([5, 15, 25.1], [N, N, N], 0),  # a time-lapse camera
        ([5, 1000, 5.1, 5.2], [N, A, B, N], GAP),  # one stamp far off costs two epochs
    ],
)
def test_a_stamp_after_those_before(stamps: list[float], steps: list[str], gap: float) -> None:
    assert judge(stamps, gap) == steps


def test_after_forgetting_any_stamp_is_right() -> None:
    order = StampOrder()
    order.step(5_000_000_000, 0)
    order.forget()
    assert order.step(1, 0) == "next"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_what_is_let_through_advances_within_an_epoch_and_drops_are_few_in_a_row(
    tenths: list[int],
) -> None:
    steps = judge([1 + tenth / 10 for tenth in tenths])
    newest, late = 0, 0
    for tenth, step in zip(tenths, steps, strict=True):
        if step in ("next", "jump ahead"):
            assert tenth > newest or newest == 0
        if step in ("next", "jump ahead", "jump back"):
            newest, late = tenth, 0
        elif step == "late":
            late += 1
            assert late < 3
