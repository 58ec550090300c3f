"""The order of stamps: what is admitted, what is dropped as a glitch, where a new epoch begins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemseg_ros.masks import encode
from stemseg_ros.records import Frame, Prompt
from stemseg_ros.stamps import StampOrder

IMAGE = np.zeros((1, 1, 3), np.uint8)
S = 10**9


def admitted(stamps: list[float], max_gap: float = 10.0) -> tuple[str, list[str]]:
    """What comes of stamps in seconds ("3 | 4": a new epoch before 4), and the kinds of drops."""
    order = StampOrder(max_gap)
    words = []
    for stamp in stamps:
        for frame, jump in order.admit(Frame(IMAGE, round(stamp * S))):
            words += ["|"] * bool(jump) + [f"{frame.stamp_ns / S:g}"]
    return " ".join(words), [event.kind for event in order.events]


@pytest.mark.parametrize(
    ("stamps", "wanted", "dropped"),
    [
        pytest.param([5, 6, 7], "5 6 7", [], id="in order"),
        pytest.param([0, 0, 0], "0 0 0", [], id="a driver that sets none"),
        pytest.param([0, 50, 51], "0 50 51", [], id="a first frame without a stamp"),
        pytest.param([50, 51, 0, 52, 53], "50 51 52 53", ["out_of_order"], id="a lone zero"),
        pytest.param([50, 51, 0, 0, 0], "50 51 | 0 0 0", [], id="stamps are lost for good"),
        pytest.param([50, 51, 51, 52], "50 51 52", ["duplicate"], id="repeated"),
        pytest.param([1, 1.2, 1.1, 1.3], "1 1.2 1.3", ["out_of_order"], id="two exchanged"),
        pytest.param(
            [1, 1.4, 1.1, 1.2, 1.5], "1 1.4 1.5", ["out_of_order"] * 2, id="two late in a row"
        ),
        pytest.param([1, 1.4, 1.1, 1.2, 1.3], "1 1.4 | 1.1 1.2 1.3", [], id="a short loop"),
        pytest.param([50, 51, 5, 6, 7], "50 51 | 5 6 7", [], id="jump back"),
        pytest.param([50, 51, 90, 91], "50 51 | 90 91", [], id="jump ahead"),
        pytest.param([50, 51, 90, 52, 53], "50 51 52 53", ["out_of_order"], id="a lone one ahead"),
        pytest.param([50, 51, 5, 90, 52], "50 51 52", ["out_of_order"] * 2, id="two glitches"),
        pytest.param([50, 59.9, 60], "50 59.9 60", [], id="within the gap"),
    ],
)
def test_admitted(stamps: list[float], wanted: str, dropped: list[str]) -> None:
    assert admitted(stamps) == (wanted, dropped)


def test_without_a_largest_gap_nothing_jumps_ahead() -> None:
    assert admitted([5, 500, 50000], max_gap=0) == ("5 500 50000", [])


@pytest.mark.parametrize(("stamps", "held"), [([50, 51, 5], 1), ([50, 51, 50.5], 1), ([50], 0)])
def test_what_is_held_at_the_end_is_counted(stamps: list[float], held: int) -> None:
    order = StampOrder(10.0)
    for stamp in stamps:
        order.admit(Frame(IMAGE, round(stamp * S)))
    assert order.forget() == held
    assert order.held == [] and order.newest is None


@pytest.mark.parametrize(("stamp", "kind"), [(51, "duplicate"), (5, "out_of_order")])
def test_prompts_of_a_dropped_frame_are_named(stamp: int, kind: str) -> None:
    order = StampOrder(10.0)
    prompts = tuple(Prompt(n, 1, encode(np.ones((1, 1), bool))) for n in (3, 8))
    for second in (50, 51):
        order.admit(Frame(IMAGE, second * S))
    order.admit(Frame(IMAGE, stamp * S, prompts))
    order.admit(Frame(IMAGE, 52 * S))
    (event,) = order.events
    assert (event.kind, event.prompts) == (kind, prompts)
    assert event.text.endswith(": dropped with its prompts, objects 3, 8")
    assert "follow" not in event.text  # it depends on the caller, who may give them again


@given(st.lists(st.integers(0, 40)), st.sampled_from([0.0, 5.0]))
def test_every_frame_is_admitted_dropped_with_an_event_or_held(
    seconds: list[int], max_gap: float
) -> None:
    order, out = StampOrder(max_gap), 0
    for second in seconds:
        out += len(order.admit(Frame(IMAGE, second * S)))
    assert out + len(order.events) + len(order.held) == len(seconds)
