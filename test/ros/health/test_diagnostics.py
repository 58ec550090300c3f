"""/diagnostics: what comes in, goes out, is lost, how long it takes, and how bad that is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros.harness import LocalNode, Peer, message, scene

from stemseg_ros.ros.health.statistics import FIRST, LAST, LOSSES, Period, StreamStatistics
from stemseg_ros.ros.health.verdicts import judge_stream
from stemseg_ros.ros.settings import HealthConfig
from stemseg_ros.stream import open_model

pytestmark = pytest.mark.ros

Start = Callable[..., LocalNode]
LENGTH = 4
WINDOW = (
    "output.min_area:=0",
    "window.length:=4",
    "window.overlap:=2",
    "stream.flush_after:=0.0",
)
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Listener:
    """The latest status of each part of the node."""

    def __init__(self, peer: Peer) -> None:
        self._parts: dict[str, DiagnosticStatus] = {}
        peer.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_message, 10)

    def _on_message(self, message: DiagnosticArray) -> None:
        self._parts = {status.name.partition(": ")[2]: status for status in message.status}

    def level(self, part: str = "frames") -> bytes | None:
        return self._parts[part].level if part in self._parts else None

    def text(self, part: str = "frames") -> str:
        return self._parts[part].message if part in self._parts else ""

    def values(self, part: str = "frames") -> dict[str, str]:
        status = self._parts.get(part)
        return {} if status is None else {item.key: item.value for item in status.values}


def test_frames_are_counted_by_what_became_of_them(local_node: Start, peer: Peer) -> None:
    local_node(*WINDOW)
    listener = Listener(peer)
    peer.connect()
    for second in range(LENGTH):
        peer.publisher.publish(message(scene(), second))
    peer.publisher.publish(message(scene(), 9, encoding="none"))
    assert peer.spin_until(lambda: listener.values().get("messages_out") == "2")
    values = listener.values()
    zero = dict.fromkeys([name for name in LOSSES if name != "frames_refused"], "0")
    expected = {"device": "cpu", "frames_in": "5", "frames_refused": "1", **zero}
    expected |= {"frames_pending": "2", "queue_depth": "0"}
    assert {name: values[name] for name in expected} == expected
    assert float(values["stage_ms.network"]) > 0
    assert float(values["rate_in_hz"]) > float(values["rate_out_hz"]) > 0
    assert listener.level() == WARN
    assert listener.text().startswith("frames are lost")
    assert peer.spin_until(lambda: listener.level() == OK)
    assert peer.trigger("reset").success
    assert peer.spin_until(lambda: listener.values()["frames_dropped"] == "2")  # in the window
    assert listener.values()["dropped.reset"] == "2"
    assert int(listener.values()["epoch"]) == int(values["epoch"]) + 1


def test_stages_model_and_device_of_the_real_model(local_node: Start, peer: Peer) -> None:
    small = ("checkpoint:=random", "device:=cpu", "input.min_dim:=96")
    local_node(*small, *WINDOW, model_opener=open_model)
    listener = Listener(peer)
    peer.connect()
    for second in range(LENGTH):
        peer.publisher.publish(message(scene(), second))
    assert peer.spin_until(lambda: "delay_ms" in listener.values())
    assert listener.values()["messages_out"] == "4"
    stages = {n.partition(".")[2] for n in listener.values() if n.startswith("stage_ms.")}
    assert stages == {*FIRST, "encode", "decode", "track", *LAST}
    latency, delay = (float(listener.values()[name]) for name in ("latency_ms", "delay_ms"))
    assert latency > 0
    assert delay > 0
    worker = listener.values("worker")
    expected = {"state": "active", "preset": "lite", "model": "stemseg", "device": "cpu"}
    expected |= {
        "checkpoint": "random",
        "window": "near_online 4/2",
        "fallback": "no",
        "worker_restarts": "0",
    }
    assert {name: worker[name] for name in expected} == expected
    assert 50 < float(worker["process_memory_mb"]) < 50_000
    assert (listener.level("worker"), listener.text("worker")) == (OK, "ready")


def test_a_node_without_a_model_reports_it(local_node: Start, peer: Peer) -> None:
    local_node("autostart:=false")
    listener = Listener(peer)
    assert peer.spin_until(lambda: listener.level("worker") is not None)
    assert listener.values("worker")["state"] == "unconfigured"
    assert listener.text("worker") == "no model is loaded"
    assert listener.text() == "not active"


def test_a_node_that_cannot_load_its_model_is_in_error(local_node: Start, peer: Peer) -> None:
    local_node("checkpoint:=broken")
    listener = Listener(peer)
    assert peer.spin_until(lambda: listener.level("worker") == ERROR)
    assert listener.text("worker") == "no model is loaded: broken: not a checkpoint"
    assert listener.values("worker")["state"] == "unconfigured"


def test_a_node_that_lacks_its_device_is_in_error(
    local_node: Start, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    local_node("device:=cuda:3")
    listener = Listener(peer)
    assert peer.spin_until(lambda: listener.level("worker") is not None)
    assert listener.level("worker") == ERROR
    assert listener.text("worker").startswith("no model is loaded: no CUDA device for 'cuda:3'")


@pytest.mark.parametrize(
    ("period", "seconds_without_images", "level", "text"),
    [
        (Period(), 0.0, OK, "no frames are lost"),
        (Period(lost_share=0.01), 0.0, WARN, "frames are lost: 1% in the last second"),
        (Period(lost_share=0.6), 0.0, ERROR, "frames are lost: 60% in the last second"),
        (Period(), 4.0, OK, "no frames are lost"),
        (Period(), 6.0, WARN, "no images for 6 s"),
        (Period(lost_share=0.1), 31.0, ERROR, "no images for 31 s"),
        (
            Period(delay_ms=1500.0),
            0.0,
            WARN,
            "results come 1500 ms after the image that completed them",
        ),
        (
            Period(delay_ms=6000.0),
            0.0,
            ERROR,
            "results come 6000 ms after the image that completed them",
        ),
    ],
)
def test_the_worst_finding_counts(
    period: Period, seconds_without_images: float, level: bytes, text: str
) -> None:
    assert judge_stream(period, seconds_without_images, HealthConfig()) == (level, text)
    assert judge_stream(period, None, HealthConfig()) == (OK, "not active")


def test_thresholds_are_settings_and_0_switches_some_off() -> None:
    bad = Period(lost_share=0.4, delay_ms=1e6)
    off = HealthConfig(
        warn_lost=0.5,
        warn_no_images=0.0,
        error_no_images=0.0,
        warn_delay_ms=0.0,
        error_delay_ms=0.0,
    )
    assert judge_stream(bad, 100.0, off)[0] == OK


def test_frames_that_the_stride_passes_over_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    statistics = StreamStatistics()
    for name in ("frames_dropped", "dropped.stride"):
        statistics.count(name, 5)
    statistics.count("frames_in", 10)
    statistics.count("frames_dropped", 1)
    now[0] += 1.0
    period = statistics.period()
    assert (period.lost_share, period.rate_in_hz) == (0.1, 10.0)
    now[0] += 0.1
    assert statistics.period() == period  # an extra message between two periods
