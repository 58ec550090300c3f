"""The demonstration as a whole on a few small frames, and how it fails."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, fields
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from rich.console import Console

from stemseg_ros.cli import demo
from stemseg_ros.cli.demo import Advancing, DemoSummary, run_demo
from stemseg_ros.errors import MediaError, StemsegError
from stemseg_ros.media.bags import bag_info
from stemseg_ros.media.result_bag import InstanceBagReader, InstanceBagWriter
from stemseg_ros.records import FrameResult
from stemseg_ros.replay import session
from stemseg_ros.replay.session import ReplayError

FRAMES = 5
TINY = """
input: {min_dim: 96, max_dim: 192}
network:
  {backbone: mobilenet_v2, fpn_channels: 16, decoder_channels: [16, 16, 16, 16], norm_groups: 4}
window: {length: 2, overlap: 0}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five frames as images: an odd number, so that windows of two need the flush."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        cv2.imwrite(
            str(folder / f"{index}.png"), rng.integers(0, 256, (96, 160, 3), dtype=np.uint8)
        )
    return folder


@pytest.mark.ros
def test_every_frame_comes_out(tmp_path: Path, config: str, video: Path) -> None:
    out = tmp_path / "out"
    printed = io.StringIO()
    summary = run_demo(
        out, video=video, config=config, checkpoint="random", console=Console(file=printed)
    )
    assert (summary.frames_in, summary.messages_out, summary.frames_dropped) == (FRAMES, FRAMES, 0)
    assert summary.device == "cpu"
    stages = {"unpack", "wait", "encode", "decode", "track", "publish"}
    assert set(summary.stage_ms) == stages
    assert all(
        value > 0
        for value in (*summary.stage_ms.values(), *summary.latency_ms.values(), summary.fps)
    )
    assert json.loads((out / "summary.json").read_text()) == asdict(summary)
    assert "5 / 5" in printed.getvalue()
    assert [topic.messages for topic in bag_info(out / "input.mcap").topics] == [FRAMES]
    with InstanceBagReader(out / "instances.mcap") as reader:
        results = list(reader)
    assert [result.stamp_ns for result in results] == sorted(
        {result.stamp_ns for result in results}
    )
    assert len({(r.epoch, i.track_id) for r in results for i in r.instances}) == summary.tracks
    with av.open(str(out / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    assert cv2.imread(str(out / "overview.png")) is not None


@pytest.mark.ros
def test_a_failing_node_is_reported_with_its_last_words(
    tmp_path: Path, config: str, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session, "node_arguments", lambda *_: ["--ros-args", "-p", "window.lenght:=4"]
    )
    with pytest.raises(ReplayError, match=r"the node ended with exit code 2[\s\S]*window.lenght"):
        run_demo(tmp_path / "out", video=video, config=config, checkpoint="random")
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize("module, what", [("rclpy", "ROS 2"), ("stemseg", "message package")])
def test_without_ros_it_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, what: str
) -> None:
    monkeypatch.setattr(session, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(ReplayError, match=f"{what}.*make setup"):
        run_demo(tmp_path / "out")


@pytest.mark.ros
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"config": "liet"}, "did you mean 'lite'"),
        ({"checkpoint": "none.safetensors"}, "none.safetensors"),
        ({"video": Path("none.mp4"), "checkpoint": "random"}, "none.mp4"),
    ],
)
def test_wrong_arguments_start_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(session, "ChildProcess", None)
    with pytest.raises(StemsegError, match=message):
        run_demo(tmp_path / "out", **arguments)  # type: ignore[arg-type]


@pytest.mark.ros
def test_the_folder_of_results_is_a_file(tmp_path: Path, config: str) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(MediaError, match="cannot write"):
        run_demo(tmp_path / "out", config=config, checkpoint="random")


def test_the_summary_has_the_promised_fields() -> None:
    assert [field.name for field in fields(DemoSummary)] == [
        "frames_in",
        "messages_out",
        "frames_dropped",
        "tracks",
        "fps",
        "latency_ms",
        "stage_ms",
        "device",
    ]


def recorded(out: Path, published: list[tuple[int, int]], received: list[tuple[int, int]]) -> Path:
    """Logs of player and recorder, (stamp, ms), and the bag that belongs to them."""
    sent = [{"stamp_ns": stamp, "published_ns": ms * 10**6} for stamp, ms in published]
    got = [{"connected_ns": 0}] + [
        {"stamp_ns": stamp, "received_ns": ms * 10**6} for stamp, ms in received
    ]
    (out / "published.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in sent))
    (out / "received.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in got))
    (out / "diagnostics.json").write_text(
        '{"frames_dropped": "1", "device": "cpu", "stage_ms.heads": "2.5"}'
    )
    with InstanceBagWriter(out / "instances.mcap") as bag:
        for stamp, _ in received:
            bag.write(FrameResult(0, stamp, 4, 4, 0, ()))
    return out


def test_latency_and_rate_come_from_both_clocks(tmp_path: Path) -> None:
    """Latencies 100, 200, 600 ms; 3 frames from 0 to 1 s."""
    out = recorded(tmp_path, [(7, 0), (8, 100), (9, 400)], [(7, 100), (8, 300), (9, 1000)])
    summary = demo._summarise(3, out)
    assert summary.latency_ms["median"] == 200
    assert summary.latency_ms["p99"] == pytest.approx(592)
    assert summary.fps == 3
    assert summary.stage_ms == {"heads": 2.5}


def test_a_lost_frame_is_a_failure(tmp_path: Path) -> None:
    out = recorded(tmp_path, [(7, 0), (8, 100), (9, 400)], [(7, 100), (9, 1000)])
    with pytest.raises(
        ReplayError, match="3 frames went in, 2 results came out; the node dropped 1"
    ):
        demo._summarise(3, out)


def test_a_replay_without_a_usable_image_says_why(tmp_path: Path) -> None:
    out = recorded(tmp_path, [(7, 0), (8, 100)], [])
    (out / "diagnostics.json").write_text('{"frames_refused": "2"}')
    with pytest.raises(ReplayError, match=r"0 results .* dropped 0; 2 cannot be read; see .*log"):
        session.times(out)


@pytest.mark.parametrize(
    "stamps, shown, restamped",
    [
        ([0, 10, 20], [0, 10, 20], 0),
        ([100, 0, 120, 130], [100, 110, 120, 130], 1),
        ([100, 110, 0, 10, 20], [100, 110, 120, 130, 140], 3),
        ([5, 5, 5], [5, 15, 25], 2),
    ],
    ids=["whole", "glitch", "clock set back", "standing"],
)
def test_stamps_that_go_back_cost_no_frame(
    stamps: list[int], shown: list[int], restamped: int
) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    frames = Advancing([(stamp, image) for stamp in stamps], 10)
    assert [stamp for stamp, _ in frames] == shown
    assert frames.restamped == restamped
