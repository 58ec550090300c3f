"""The fault scripts of benchmarks/ in short, with real nodes in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from colour_engine import scene

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from soak import faults, kills, malformed
from soak.memory import judge, soak
from soak.reports import Report, Usage, growth_kb, leaks
from soak.rig import NodeProcess, Rig

pytestmark = pytest.mark.ros

SIZE = (36, 64)
TEST = Path(__file__).resolve().parent.parent
STILL = scene(SIZE, (1, 1, 8, 4, 12), (2, 2, 16, 36, 12))
NODES = ("front", "rear", "far")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    parameters = (
        f"input.min_dim:={SIZE[0]}",
        f"input.max_dim:={SIZE[1]}",
        "window.length:=4",
        "window.overlap:=2",
        "output.min_area:=0",  # the objects of the still are small
    )
    return Rig(
        tmp_path_factory.mktemp("faults"),
        [STILL] * 8,
        parameters,
        ("ros.colour_node",),
        {"PYTHONPATH": os.pathsep.join([str(TEST), os.environ.get("PYTHONPATH", "")])},
    )


@pytest.fixture(scope="module")
def nodes(rig: Rig) -> Iterator[dict[str, NodeProcess]]:
    """Two namespaces in the domain of the tests, and another domain."""
    with ExitStack() as stack:
        yield faults.start_separate(rig, stack)


def assert_passed(report: Report, rig: Rig) -> None:
    failed = [check for check, holds in report.checks.items() if not holds]
    logs = "\n".join(f"{log.name}:\n{log.read_text()}" for log in sorted(rig.out.glob("*.log")))
    assert report.checks and not failed, f"{failed}\n{report.numbers}\n{logs}"


@pytest.mark.parametrize("kind", ["raw", "compressed"])
def test_malformed_messages_are_refused_with_a_short_reason(kind: str) -> None:
    seen = set()

    def check(message: malformed.Case) -> None:
        error = malformed.refused(message)
        assert error is not None, f"taken for a picture: {message}"
        malformed.check_reason(error)
        seen.add(error.fault)

    malformed.for_all(getattr(malformed, kind)(), check, 400)
    faults = {
        "raw": {"stamp", "limit", "encoding", "size", "step", "length"},
        "compressed": {"stamp", "limit", "length", "format", "content"},
    }
    assert seen == faults[kind]


def test_random_messages_are_pictures_or_refused() -> None:
    malformed.for_all(malformed.anything(), malformed.refused, 400)


def test_nodes_of_other_namespaces_and_domains_hear_nothing(
    rig: Rig, nodes: dict[str, NodeProcess]
) -> None:
    report = faults.separate(rig, nodes)
    assert_passed(report, rig)
    assert [report.numbers[f"images that {name} has seen"] for name in NODES] == [8] * 3


@pytest.mark.parametrize("name", ["front", "rear"])
def test_nodes_count_what_they_refuse_and_go_on(
    rig: Rig, nodes: dict[str, NodeProcess], name: str
) -> None:
    report = faults.refuse_in_node(rig, nodes[name], 60)
    assert_passed(report, rig)
    assert report.numbers["frames_refused"] == 60


def test_activations_and_configurations_leave_nothing_behind(
    rig: Rig, nodes: dict[str, NodeProcess]
) -> None:
    report = faults.switch(rig, nodes["front"], activations=10, configurations=5)
    for kind in ("activation", "configuration"):  # too few of them for a slope
        del report.checks[f"flat memory, {kind}"]
    assert_passed(report, rig)


def test_killed_cameras_are_followed_by_others(rig: Rig, nodes: dict[str, NodeProcess]) -> None:
    report = kills.kill_cameras(rig, nodes["front"], rounds=3, results=3, back_every=3)
    assert_passed(report, rig)
    assert (report.numbers["epochs"], report.numbers["objects in the still"]) == (2, 2)


def test_a_killed_node_is_followed_by_another_while_the_bag_plays(rig: Rig) -> None:
    assert_passed(kills.kill_nodes(rig, rounds=1, within=120.0), rig)


def test_a_short_soak_accounts_for_every_image_and_keeps_threads_and_files(rig: Rig) -> None:
    samples, report = soak(rig, minutes=0.15, rate=10.0, interval=1.0)
    judge(samples, 3.0, report)
    for check in list(report.checks):  # too few seconds for a slope
        if check.startswith("flat "):
            del report.checks[check]
    assert_passed(report, rig)
    assert report.numbers["results"] > 0


@pytest.mark.parametrize(
    ("memory", "kb"),
    [([50, 51, 1, 1, 1, 1, 1, 1, 1, 1], 0.0), ([0, 0, *(0.5 * i for i in range(8))], 500.0)],
)
def test_growth_is_that_after_the_warm_up(memory: list[float], kb: float) -> None:
    samples = [Usage(0.0, megabytes, 1, 1) for megabytes in memory]
    assert growth_kb(samples) == pytest.approx(kb, abs=1e-9)


@pytest.mark.parametrize("change", [{"threads": 6}, {"files": 11}])
def test_leaks_are_reported(change: dict[str, int]) -> None:
    held = {"threads": 5, "files": 10}
    report = Report("")
    leaks(report, [Usage(1, 1, **held), Usage(1, 1, **(held | change))], "round")
    assert not report.passed
