"""Counting lost images, and what is told about them."""

from __future__ import annotations

import random

import pytest

from stemseg_ros.ros.input.lost_images import FAST_DDS_PROFILES, LostImageCounter, remedy

PERIOD = 0.1


class Counted:
    def __init__(self) -> None:
        self.lost = 0
        self.seconds: list[float] = []
        """Duration of each loss."""
        self.told: list[float] = []
        self.frames = LostImageCounter(self.add, self.told.append)

    def add(self, number: int, seconds: float) -> None:
        self.lost += number
        self.seconds.append(round(seconds, 3))

    def receive(self, *numbers: float, begin: float = 1000.0) -> None:
        for number in numbers:
            self.frames.received(round((begin + number * PERIOD) * 1e9))


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        (range(100), 0),
        ([n for n in range(100) if n not in (50, 51, 70)], 3),
        ([n + 0.3 * (n % 2) for n in range(100)], 0),  # a jittery camera
        ([n for n in range(100) if n % 10 or n < 20], 8),
        ([*range(50), *range(1050, 1100)], 0),  # a pause of 100 s
        ([*range(50), 40, 41, *range(50, 99)], 0),  # repeated ones
        ([*range(50), *range(-5000, -4950)], 0),  # a bag loop
        ([*range(20), *range(20, 80, 2)], 24),  # from 10 to 5 Hz: until the estimate follows
        ([0, 5, 7, 30], 0),  # no rate is known yet
        # A driver that does not get the processor: bursts that catch up after a hole, ...
        ([*range(20), 25, 25.1, 25.2, 25.3, 25.4, 25.5, *range(26, 40)], 0),
        # ... or that are the only way in which it sends.
        ([10 * n + k / 1000 for n in range(9) for k in range(10)], 0),
    ],
)
def test_gaps(numbers: list[float], lost: int) -> None:
    it = Counted()
    it.receive(*numbers)
    assert it.lost == lost


@pytest.mark.parametrize(
    ("numbers", "reports", "losses"),
    [
        ([*range(20), *range(23, 30)], {}, [(3, 0.4)]),  # from image 19 to image 23
        ([*range(20), 22, 25, 26], {}, [(2, 0.3), (2, 0.3)]),
        ([0, 33, 34], {33: 32}, [(32, 3.3)]),  # of a slow camera, as the middleware says
    ],
)
def test_a_loss_lasts_from_image_to_image(
    numbers: list[float], reports: dict[float, int], losses: list[tuple[int, float]]
) -> None:
    it = Counted()
    counts = []
    for number in numbers:
        before = it.lost
        if number in reports:
            it.frames.reported(reports[number])
        it.receive(number)
        if it.lost > before:
            counts.append(it.lost - before)
    assert list(zip(counts, it.seconds, strict=True)) == losses


def test_random_losses_are_counted_well() -> None:
    rng = random.Random(3)
    sent = range(2000)
    received = [n for n in sent if rng.random() > 0.2]
    it = Counted()
    it.receive(*received)
    assert it.lost == pytest.approx(len(sent) - len(received), rel=0.05)


def test_what_both_notice_counts_once() -> None:
    it = Counted()
    it.receive(*range(30))
    it.frames.reported(2)
    it.receive(32, 33)
    assert it.lost == 2
    it.frames.reported(5)
    it.receive(34)
    assert it.lost == 7


def test_above_five_per_cent_is_explained_once() -> None:
    it = Counted()
    it.receive(*(n for n in range(200) if n % 25))  # 4 %
    assert it.told == []
    it.receive(*(n for n in range(200, 800) if n % 10))  # 10 %
    assert len(it.told) == 1
    assert 0.05 < it.told[0] < 0.11


def test_almost_everything_lost_is_explained() -> None:
    it = Counted()
    for number in range(0, 60, 15):  # four of sixty arrive: no rate can be seen in the stamps
        it.frames.reported(14)
        it.receive(number)
    assert it.lost == 56
    assert it.told == [pytest.approx(42 / 45)]


@pytest.mark.parametrize(
    ("middleware", "environment", "words"),
    [
        (
            "rmw_fastrtps_cpp",
            {},
            [f"{FAST_DDS_PROFILES[0]}=/", "/config/fastdds_shm.xml", "camera's side decides"],
        ),
        ("rmw_fastrtps_cpp", {FAST_DDS_PROFILES[1]: "x"}, ["camera's side decides"]),
        ("rmw_cyclonedds_cpp", {}, ["CYCLONEDDS_URI=file:///", "/config/cyclonedds.xml"]),
        ("rmw_cyclonedds_cpp", {"CYCLONEDDS_URI": "x"}, ["camera's side decides"]),
        ("rmw_zenoh_cpp", {}, ["node.image_transport"]),
    ],
)
def test_remedy(middleware: str, environment: dict[str, str], words: list[str]) -> None:
    said = remedy(middleware, environment)
    assert all(word in said for word in words), said
