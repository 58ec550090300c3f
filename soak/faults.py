"""Faults that a robot's node has to survive, tried on the real node over real DDS.

camera      a camera is killed (SIGKILL) and started again, many times; stamps go on, or back
node        the node is killed while a bag plays, and started again by this script
launch      the same, but camera.launch.py starts it again; left out where ROS 2 has no launch
messages    malformed images: at the conversion, and a part of them through the node
lifecycle   deactivated and activated, cleaned up and configured, many times, without leaks
isolation   nodes of different namespaces and domains do not hear each other

Ends with exit code 1 if something does not hold.

    python -m soak.faults --out out/faults
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from soak import malformed
from soak.kills import kill_cameras, kill_launched, kill_nodes, launch_is_here
from soak.reports import (
    FaultError,
    Report,
    growth_kb,
    leaks,
    show_reports,
    write_reports,
)
from soak.rig import SECOND, NodeProcess, Rig, Robot, own_domain, video_frames
from stemseg_ros.replay.processes import free_domain, termination_as_exit

FAULTS = ("isolation", "messages", "lifecycle", "camera", "node", "launch")
FLAT_KB = 20.0
"""Growth of memory per cycle that counts as none."""
SHOWN = 8
"""Images sent at once, for which the node must publish results."""
BATCH = 10
"""Messages sent at once; fewer than the node's subscription holds."""


def refuse_at_conversion(cases: int) -> Report:
    """Malformed messages, and random ones, some of them pictures, at the conversion."""
    faults: Counter[str] = Counter()

    def check(message: Any, sure: bool) -> None:
        error = malformed.refused(message)
        if error is None:
            assert not sure, f"taken for a picture: {message}"
            faults["none, a picture by chance"] += 1
        else:
            malformed.check_reason(error)
            faults[error.fault] += 1

    third = -(-cases // 3)
    malformed.for_all(malformed.raw(), lambda m: check(m, True), third)
    malformed.for_all(malformed.compressed(), lambda m: check(m, True), third)
    malformed.for_all(malformed.anything(), lambda m: check(m, False), third)
    report = Report("malformed messages at the conversion", {"cases": faults.total()})
    report.numbers |= {f"fault: {name}": number for name, number in faults.most_common()}
    report.checks["no crash, each refused in one line"] = True  # else it has raised
    report.checks[f"at least {cases} cases"] = faults.total() >= cases
    return report


def refuse_in_node(rig: Rig, node: NodeProcess, cases: int) -> Report:
    """The same messages through a node with LIMITS, bytes that are no message, and good images."""
    kind = "compressed" if node.compressed else "raw"
    report = Report(f"malformed messages through the node, {kind}")
    bad = malformed.draw_cases(
        malformed.compressed() if node.compressed else malformed.raw(), cases
    )
    garbled = malformed.draw_cases(malformed.garbled(), max(1, cases // 4))
    with node.robot() as peer:
        peer.connect()
        before = peer.count("frames_refused")
        for begin in range(0, cases, BATCH):
            for message in bad[begin : begin + BATCH]:
                peer.publish(message)
            peer.trigger("flush")  # responds when the images before are processed
        peer.spin_until(lambda: peer.count("frames_refused") - before >= cases, 5.0)
        refused = peer.count("frames_refused") - before
        for data in garbled:
            peer.publish(data)
        peer.trigger("flush")
        good = 4
        for index in range(good):
            peer.show(rig.images[0], (10**9 + index) * SECOND // 10)
        peer.trigger("flush")
        peer.spin_until(lambda: len(peer.results) >= good, 30.0)
    report.numbers |= {"malformed": cases, "frames_refused": refused, "garbled": len(garbled)}
    report.checks |= {
        "the node lives": node.alive,
        "each malformed one is counted as refused": refused == cases,
        "good images after them have results": len(peer.results) == good,
    }
    return report


def switch(rig: Rig, node: NodeProcess, activations: int, configurations: int) -> Report:
    """Deactivate and activate, then clean up and configure as well, each time with images
    between."""
    report = Report(f"{activations} activations, {configurations} configurations")
    topics: list[int] = []
    with node.robot() as peer:
        _show_window(rig, peer, 0)
        for kind, rounds, steps in (
            ("activation", activations, ("deactivate", "activate")),
            ("configuration", configurations, ("deactivate", "cleanup", "configure", "activate")),
        ):
            samples, begin = [], time.monotonic()
            for index in range(rounds):
                for step in steps:
                    peer.change_state(step)
                    if step == "deactivate":
                        peer.need(lambda: not peer.subscribed, "the end of the subscription")
                _show_window(rig, peer, 1 + index)
                samples.append(node.usage)
                topics.append(peer.endpoints())
            leaks(report, samples, kind)
            report.numbers[f"s per {kind}"] = (time.monotonic() - begin) / rounds
            report.checks[f"flat memory, {kind}"] = growth_kb(samples) <= FLAT_KB
        report.checks["the node lives"] = node.alive
    report.numbers["topics and services"] = topics[-1]
    report.checks["no more topics and services"] = topics[-1] <= min(topics)
    return report


def _show_window(rig: Rig, peer: Robot, second: int) -> None:
    """Wait until the node listens, show a window of images, and wait for a result."""
    peer.connect()
    seen = len(peer.results)
    for index in range(SHOWN):
        peer.show(rig.images[index % len(rig.images)], second * SECOND + index * SECOND // 10)
    peer.need(lambda: len(peer.results) > seen, "a result after the activation")


def separate(rig: Rig, nodes: Mapping[str, NodeProcess]) -> Report:
    """Nodes, by name, of different namespaces or domains."""
    report = Report("namespaces and domains")
    with ExitStack() as stack:
        peers = {name: stack.enter_context(node.robot()) for name, node in nodes.items()}
        for peer in peers.values():
            peer.connect()
        seen = {name: peer.count("frames_in") for name, peer in peers.items()}
        for shown, camera in peers.items():
            before = {name: len(peer.results) for name, peer in peers.items()}
            _show_window(rig, camera, 0)
            camera.trigger("flush")  # else the rest comes after a pause
            for name, peer in peers.items():
                if name != shown:
                    peer.spin_for(0.5)
                    heard = len(peer.results) > before[name]
                    report.checks[
                        f"{name} publishes no result for the images of {shown}"
                    ] = not heard
        for name, peer in peers.items():
            peer.trigger("flush")
            peer.spin_for(1.5)
            images = peer.count("frames_in") - seen[name]
            report.numbers[f"images that {name} has seen"] = images
            report.checks[f"{name} has seen its own images alone"] = images == SHOWN
    return report


def start_separate(rig: Rig, stack: ExitStack) -> dict[str, NodeProcess]:
    """Two nodes of different namespaces in one domain, a third one in another domain."""
    limits = (
        f"node.max_pixels:={malformed.LIMITS.max_pixels}",
        f"node.max_message_bytes:={malformed.LIMITS.max_message_bytes}",
        "stream.max_gap:=0.0",
    )
    other = free_domain()
    return {
        "front": stack.enter_context(rig.node("front", *limits, namespace="front")),
        "rear": stack.enter_context(rig.node("rear", *limits, namespace="rear", compressed=True)),
        "far": stack.enter_context(rig.node("far", *limits, namespace="front", domain=other)),
    }


def try_faults(rig: Rig, tries: Mapping[str, Callable[[], list[Report]]]) -> list[Report]:
    """One after the other; what cannot even be tried is a report of its own."""
    reports: list[Report] = []
    for fault, attempt in tries.items():
        try:
            found = attempt()
        except FaultError as error:
            found = [Report(fault, checks={str(error): False})]
        show_reports(found)
        reports += found
        write_reports(reports, rig.out / "faults.json")
    return reports


def main(
    faults: Annotated[
        list[str] | None,
        typer.Argument(help="isolation messages lifecycle camera node launch [all]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and the logs.")] = Path(
        "out/faults"
    ),
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="Of the nodes, as in -p config:=kitti_mots.")
    ] = None,
    restarts: Annotated[int, typer.Option(help="Of the camera.")] = 50,
    respawns: Annotated[int, typer.Option(help="Of the node.")] = 5,
    within: Annotated[
        float, typer.Option(help="Seconds until a new node must publish a result.")
    ] = 60.0,
    cases: Annotated[int, typer.Option(help="Malformed messages at the conversion.")] = 10_000,
    through: Annotated[int, typer.Option(help="Of them through the node, per transport.")] = 300,
    activations: Annotated[int, typer.Option(help="Times.")] = 200,
    configurations: Annotated[int, typer.Option(help="Times.")] = 20,
) -> None:
    """Try the faults that are named."""
    out.mkdir(parents=True, exist_ok=True)
    own_domain()
    rig = Rig(out, video_frames(50, (192, 108)), (*Rig.parameters, *(parameter or ())))
    with termination_as_exit(), ExitStack() as stack:
        if unknown := set(faults or ()) - set(FAULTS):
            raise typer.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(FAULTS)}")
        possible = FAULTS if launch_is_here() else FAULTS[:-1]
        chosen = [fault for fault in FAULTS if fault in (faults or possible)]
        # One trio of nodes for everything, but for those that are killed.
        nodes = start_separate(rig, stack) if set(chosen) - {"node", "launch"} else {}
        tries = {
            "isolation": lambda: [separate(rig, nodes)],
            "messages": lambda: [
                refuse_at_conversion(cases),
                *(refuse_in_node(rig, nodes[name], through) for name in ("front", "rear")),
            ],
            "lifecycle": lambda: [switch(rig, nodes["front"], activations, configurations)],
            "camera": lambda: [kill_cameras(rig, nodes["front"], restarts)],
            "node": lambda: [kill_nodes(rig, respawns, within)],
            "launch": lambda: [kill_launched(rig, respawns, within)],
        }
        reports = try_faults(rig, {fault: tries[fault] for fault in chosen})
    sys.exit(0 if all(report.passed for report in reports) else 1)


if __name__ == "__main__":
    typer.run(main)
