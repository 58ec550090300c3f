"""Player and recorder as processes of their own, over real DDS, around a stand-in for the node."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stemseg_ros.media.bags import IMAGE, BagReader, BagWriter, write_bag
from stemseg_ros.media.result_bag import InstanceBagReader

pytestmark = pytest.mark.ros

FAKE_NODE = [sys.executable, str(Path(__file__).parents[1] / "fake_node.py")]
REMAP = ["--ros-args", "-r", "image:=/camera/image_raw"]
FRAMES = 12
PERIOD_NS = 20_000_000


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "clip.mcap"
    frames = ((10**9 + i * PERIOD_NS, np.full((8, 10, 3), i, np.uint8)) for i in range(FRAMES))
    write_bag(frames, path)
    return path


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextmanager
def fake_node(*options: str) -> Iterator[None]:
    with process(*FAKE_NODE, *options, *REMAP) as node:
        assert node.stdout is not None
        # The middleware may complain about shared memory that killed processes left behind.
        assert "ready\n" in iter(node.stdout.readline, "")
        yield


def player(bag: Path, *options: str) -> Any:
    return process(sys.executable, "-m", "stemseg_ros.ros", "player", "--bag", str(bag), *options)


def recorder(folder: Path, *options: str) -> Any:
    return process(
        sys.executable,
        "-m",
        "stemseg_ros.ros",
        "recorder",
        "--out",
        str(folder / "out.mcap"),
        "--log",
        str(folder / "received.jsonl"),
        "--diagnostics",
        str(folder / "d.json"),
        *options,
    )


def lines(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until_connected(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not lines(folder / "received.jsonl"):
        assert time.monotonic() < deadline, "the recorder found no publisher"
        time.sleep(0.05)


def test_every_frame_has_its_result_recorded(bag: Path, tmp_path: Path) -> None:
    """Windows of 5 with 7 in flight: 12 frames need a flush at the end, and the last two come out
    by it."""
    with fake_node("--window", "5"), recorder(tmp_path, "--count", str(FRAMES)) as recording:
        wait_until_connected(tmp_path)
        with player(
            bag, "--in-flight", "7", "--log", str(tmp_path / "published.jsonl")
        ) as playing:
            output, _ = playing.communicate(timeout=30)
        assert playing.returncode == 0, output
        output, _ = recording.communicate(timeout=10)
        assert recording.returncode == 0, output
    stamps = [10**9 + i * PERIOD_NS for i in range(FRAMES)]
    with InstanceBagReader(tmp_path / "out.mcap") as reader:
        assert [(r.stamp_ns, r.height, r.width) for r in reader] == [
            (stamp, 8, 10) for stamp in stamps
        ]
    published = {
        entry["stamp_ns"]: entry["published_ns"] for entry in lines(tmp_path / "published.jsonl")
    }
    received = {
        entry["stamp_ns"]: entry["received_ns"] for entry in lines(tmp_path / "received.jsonl")[1:]
    }
    assert list(published) == list(received) == stamps
    assert all(0 < received[stamp] - published[stamp] < 20e9 for stamp in stamps)
    times = list(published.values())
    assert min(later - earlier for earlier, later in pairwise(times)) >= PERIOD_NS
    assert json.loads((tmp_path / "d.json").read_text())["most_pending"] == "5"


def test_without_flow_control(bag: Path) -> None:
    """Nothing responds and nothing is waited for, at twice the rate."""
    with fake_node("--mute"), player(bag, "--in-flight", "0", "--rate", "2") as playing:
        output, _ = playing.communicate(timeout=30)
    assert playing.returncode == 0, output


@pytest.mark.parametrize("every, number", [(5, 2), (2, 6), (12, 1)])
def test_frames_that_the_node_refuses_are_not_waited_for(
    bag: Path, every: int, number: int
) -> None:
    """With no more in flight than the window needs, and the last frame among them."""
    with (
        fake_node("--window", "4", "--refuse", str(every)),
        player(bag, "--in-flight", "4", "--timeout", "10") as playing,
    ):
        output, _ = playing.communicate(timeout=60)
    assert playing.returncode == 0, output
    assert f"frames without a result: {number} cannot be read" in output


def test_the_last_frames_are_flushed_though_the_node_still_reports_held_ones(bag: Path) -> None:
    """A node counts once a second, and may have taken the frames since."""
    with fake_node("--window", "5", "--held", "2"), player(bag, "--in-flight", "7") as playing:
        output, _ = playing.communicate(timeout=30)
    assert playing.returncode == 0, output
    assert "played 12 frames" in output and "without a result" not in output


def test_a_message_that_cannot_be_read_is_not_played(bag: Path, tmp_path: Path) -> None:
    with BagReader(bag, [IMAGE]) as reader, BagWriter(tmp_path / "b.mcap", "/i", IMAGE) as writer:
        for index, (log_ns, data) in enumerate(reader.raw()):
            writer.write_raw(log_ns, data[:6] if index in (0, 7) else data)
    with fake_node(), player(tmp_path / "b.mcap", "--in-flight", "1") as playing:
        output, _ = playing.communicate(timeout=30)
    assert playing.returncode == 0, output
    assert "2 messages cannot be read and were not played" in output
    assert "played 10 frames" in output


FAULTS = [
    (None, ["--wait", "1"], 1, "nobody subscribed to /camera/image_raw within 1 s"),
    (
        ["--mute"],
        ["--timeout", "1", "--in-flight", "4"],
        1,
        "no result on /stemseg/instances for 1 s with 4",
    ),
    (["--mute"], ["--timeout", "3"], 1, "12 frames have no result within 3 s"),
    (["--window", "6"], ["--timeout", "1", "--in-flight", "5"], 1, "raise --in-flight"),
    (["--skip", "5"], [], 1, "the node dropped 2 frames"),
    (
        [],
        ["--results", "/other/instances", "--wait", "5"],
        1,
        "nobody publishes /other/instances within 5 s",
    ),
    ([], ["--bag-topic", "/lidar"], 2, "no topic named '/lidar'"),
    ([], ["--rate", "0"], 2, "0 is not above 0"),
]


@pytest.mark.parametrize(
    "node, options, code, message", FAULTS, ids=[fault[3][:24] for fault in FAULTS]
)
def test_errors_of_the_player(
    bag: Path, node: list[str] | None, options: list[str], code: int, message: str
) -> None:
    with fake_node(*node) if node is not None else nullcontext(), player(bag, *options) as playing:
        output, _ = playing.communicate(timeout=30)
    assert playing.returncode == code, output
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_both(bag: Path, tmp_path: Path, number: signal.Signals) -> None:
    with fake_node(), recorder(tmp_path) as recording:
        wait_until_connected(tmp_path)
        with player(bag, "--loop") as playing:
            deadline = time.monotonic() + 60
            while (
                len(lines(tmp_path / "received.jsonl")) < FRAMES + 4
            ):  # the second round has begun
                assert time.monotonic() < deadline
                time.sleep(0.05)
            for child, code in ((playing, 130), (recording, 0)):
                child.send_signal(number)
                output, _ = child.communicate(timeout=20)  # neither ends on its own
                assert child.returncode == code, output
                assert "Traceback" not in output
    with InstanceBagReader(tmp_path / "out.mcap") as reader:
        assert len(list(reader)) >= FRAMES + 3


def test_recorder_keeps_an_existing_bag(bag: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mcap").touch()
    with recorder(tmp_path) as recording:
        output, _ = recording.communicate(timeout=20)
    assert recording.returncode == 2
    assert "exists already" in output
