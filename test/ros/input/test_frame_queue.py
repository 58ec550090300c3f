"""Waiting frames under load, against a worker and a clock that are simulated."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemseg_ros.ros.input.frame_queue import DROPS, FrameQueue, Waiting
from stemseg_ros.ros.settings import NodeConfig

POLICIES = ("drop_oldest", "drop_newest", "stride")
STRIDE = 4
TURNS = (0.06, 0.06, 0.06, 0.22)
"""Seconds of the turns of a window pass: the last one completes the window."""
SERVICE = sum(TURNS) / STRIDE


class Line:
    """A queue of numbered frames with a clock that the test moves."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.drops: Counter[str] = Counter()
        self.queue = FrameQueue(NodeConfig(**settings), STRIDE, self.drop, lambda: self.now)

    def drop(self, cause: str, number: int) -> None:
        self.drops[cause] += number

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.queue.put(Waiting(number, self.now))

    def take_all(self) -> list[int]:
        taken = []
        while (frame := self.queue.take()) is not None:
            taken.append(frame.message)
            self.queue.done()
        return taken

    def run(self, load: float, seconds: float = 60.0) -> list[tuple[int, float]]:
        """Frames at load times the worker's rate; (number, seconds from arrival to the end of its
        turn) of those that were served."""
        interval = SERVICE / load
        served: list[tuple[int, float]] = []
        arrived, free = 0, self.now
        start = self.now
        while self.now - start < seconds:
            next_arrival = start + arrived * interval
            if free <= next_arrival:
                self.now = max(free, self.now)
                self.queue.done()
                if (frame := self.queue.take()) is not None:
                    free = self.now + TURNS[len(served) % STRIDE]
                    served.append((frame.message, free - frame.arrived))
                    continue
            self.now = next_arrival
            self.put(arrived)
            arrived += 1
            free = max(free, self.now)
        self.queue.done()
        assert arrived == len(served) + sum(self.drops.values()) + len(self.queue)
        return served


@pytest.mark.parametrize(
    ("policy", "kept", "cause"),
    [
        ("drop_oldest", [2, 3, 4], "drop_oldest"),
        ("drop_newest", [0, 1, 2], "drop_newest"),
        ("stride", [2, 3, 4], "drop_oldest"),  # nothing is measured yet
    ],
)
def test_a_full_queue(policy: str, kept: list[int], cause: str) -> None:
    line = Line(load_policy=policy, queue_size=3)
    line.put(*range(5))
    assert (len(line.queue), line.queue.oldest) == (3, 0.0)
    assert line.take_all() == kept
    assert line.drops == {cause: 2}
    assert line.queue.oldest is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("load", [0.5, 1.0, 2.0, 4.0])
def test_latency_stays_bounded_and_the_worker_busy(policy: str, load: float) -> None:
    line = Line(load_policy=policy, queue_size=16)
    served = line.run(load)
    latencies = [latency for _, latency in served[len(served) // 3 :]]
    assert max(latencies) <= 16 * SERVICE + 2 * max(TURNS)
    if policy == "stride":  # keeps a queue from forming
        assert max(latencies) <= 2.5 * max(TURNS)
    share = len(served) * SERVICE / 60.0
    lowest = {0.5: 0.48, 1.0: 0.48, 2.0: 0.65, 4.0: 0.75}[load] if policy == "stride" else 0.9
    assert share >= min(lowest, 0.97 * load)
    numbers = [number for number, _ in served]
    assert numbers == sorted(set(numbers))
    if load < 1:
        assert not line.drops


@pytest.mark.parametrize(("load", "every"), [(0.5, 1), (1.9, 2), (2.7, 3), (3.9, 4)])
def test_a_stride_is_even(load: float, every: int) -> None:
    line = Line(load_policy="stride")
    numbers = [number for number, _ in line.run(load)]
    steps = Counter(b - a for a, b in pairwise(numbers[len(numbers) // 3 :]))
    assert steps.keys() == {every}
    assert line.queue.every == every


def test_a_stride_follows_the_load_both_ways() -> None:
    line = Line(load_policy="stride")
    found = []
    for load in (0.5, 3.7, 1.7, 0.5):
        line.drops.clear()
        line.run(load)
        found.append(line.queue.every)
        line.queue.clear()
    assert found == [1, 4, 2, 1]


def test_max_latency_drops_what_could_only_be_late() -> None:
    line = Line(max_latency_ms=600)
    for number, seconds in enumerate(TURNS):
        line.put(-number)
        line.queue.take()
        line.now += seconds
        line.queue.done()
    for number in range(6):
        line.put(number)
        line.now += 0.1
    # 0.6 s after the first one came: a window takes 0.22 s, so what came 0.38 s ago or more is
    # late in any case.
    assert line.take_all() == [3, 4, 5]
    assert line.drops == {"late": 3}


def test_max_latency_never_starves_the_stream() -> None:
    line = Line(max_latency_ms=10)
    served = line.run(2.0)
    assert len(served) >= 0.9 * 60.0 / SERVICE
    assert set(line.drops) == {"late"}


@pytest.mark.parametrize("policy", POLICIES)
def test_max_latency_holds_under_load(policy: str) -> None:
    line = Line(load_policy=policy, max_latency_ms=500)
    served = line.run(4.0)
    assert max(latency for _, latency in served[STRIDE:]) <= 0.5


def test_settings_change_while_frames_wait() -> None:
    line = Line(queue_size=8)
    line.put(*range(8))
    line.queue.update(NodeConfig(queue_size=2, load_policy="drop_newest"))
    line.put(8)
    assert line.drops == {"drop_newest": 1}
    line.queue.update(NodeConfig(queue_size=2))
    line.put(9)
    assert line.take_all() == [7, 9]
    assert line.drops == {"drop_newest": 1, "drop_oldest": 7}


def test_a_pause_is_no_slow_camera_and_a_stall_no_slow_worker() -> None:
    line = Line(load_policy="stride")
    line.run(3.9)
    line.take_all()
    line.now += 60.0
    line.drops.clear()
    line.run(3.9, 2.0)
    assert line.queue.every == 4
    line.queue.clear()
    line.put(0)
    line.queue.take()
    line.now += 60.0
    line.queue.done()
    line.drops.clear()
    line.run(3.9, 2.0)
    assert line.queue.every == 4


def test_clear_forgets_what_waits() -> None:
    line = Line()
    line.put(1, 2)
    assert line.queue.clear() == 2
    assert line.queue.take() is None
    line.queue.done()  # of nothing
    line.put(3)
    assert line.take_all() == [3]
    assert not line.drops


@given(
    policy=st.sampled_from(POLICIES),
    size=st.integers(1, 5),
    limit=st.sampled_from([0, 300]),
    steps=st.lists(st.sampled_from(["put", "take", "wait"]), max_size=60),
)
def test_every_frame_is_served_or_counted(
    policy: str, size: int, limit: int, steps: list[str]
) -> None:
    line = Line(load_policy=policy, queue_size=size, max_latency_ms=limit)
    put, served = 0, []
    for step in steps:
        if step == "put":
            line.put(put)
            put += 1
        elif step == "wait":
            line.now += 0.1
        elif (frame := line.queue.take()) is not None:
            served.append(frame.message)
            line.queue.done()
        assert len(line.queue) <= size
    served += line.take_all()
    assert served == sorted(set(served))
    assert len(served) + sum(line.drops.values()) == put
    assert set(line.drops) <= set(DROPS)
