"""One line when trouble begins, one with the total when it is over."""

from __future__ import annotations

import pytest

from stemseg_ros.ros.health.throttled_log import ThrottledLog, counted


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        # times of the events of one kind in seconds; then the lines until second 20
        ([], []),
        ([0], ["bad"]),
        ([0, 1, 2.5], ["bad", "all: 3 in 2.5 s"]),
        ([0, 5], ["bad", "bad"]),  # two bursts
        ([0, 1, 9, 10], ["bad", "all: 2 in 1.0 s", "bad", "all: 2 in 1.0 s"]),
    ],
)
def test_lines_of_a_burst(events: list[float], expected: list[str]) -> None:
    now = 0.0
    lines: list[str] = []
    log = ThrottledLog(lines.append, quiet=2.0, clock=lambda: now)
    for tenth in range(200):
        now = tenth / 10
        for _ in range(events.count(now)):
            log.add("kind", "bad", "all")
        log.poll()
    assert lines == expected


def test_kinds_that_differ_in_numbers_are_one() -> None:
    lines: list[str] = []
    log = ThrottledLog(lines.append, clock=lambda: 0.0)
    for size in (120, 7):
        log.add(f"truncated, {size} bytes", f"truncated, {size} bytes", "truncated")
    log.poll(finish=True)
    assert lines == ["truncated, 120 bytes", "truncated: 2 in 0.0 s"]


def test_an_event_may_have_lasted() -> None:
    now = 10.0
    lines: list[str] = []
    log = ThrottledLog(lines.append, quiet=2.0, clock=lambda: now)
    log.add("lost", "32 images lost", "images lost", count=32, seconds=5.0)
    now = 13.0
    log.poll()
    assert lines == ["32 images lost"]  # which says it all
    log.add("lost", "2 images lost", "images lost", count=2, seconds=0.5)
    now = 14.0
    log.add("lost", "1 image lost", "images lost", seconds=0.25)
    log.poll(finish=True)
    assert lines[1:] == ["2 images lost", "images lost: 3 in 1.5 s"]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 frames"), (1, "1 frame"), (2, "2 frames"), (32, "32 frames")]
)
def test_numbers_agree_with_their_nouns(number: int, text: str) -> None:
    assert counted(number, "frame") == text


def test_kinds_are_separate_and_finish_closes_all() -> None:
    lines: list[str] = []
    log = ThrottledLog(lines.append, clock=lambda: 0.0)
    log.add("a", "a happens", "a", count=3)
    log.add("b", "b happens", "b")
    log.add("a", "a happens", "a")
    log.poll()
    assert lines == ["a happens", "b happens"]
    log.poll(finish=True)
    assert lines[2:] == ["a: 4 in 0.0 s"]
