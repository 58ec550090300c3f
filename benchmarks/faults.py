"""Faults that a robot's node has to survive, tried on the real node over real DDS.

camera      a camera is killed (SIGKILL) and started again, many times; stamps go on, or back
node        the node is killed while a bag plays, and started again by this script
messages    malformed images: at the conversion, and a part of them through the node
lifecycle   deactivated and activated, cleaned up and configured, many times, without leaks
isolation   nodes of different namespaces and domains do not hear each other

Ends with exit code 1 if something does not hold.

    python -m benchmarks.faults --out out/faults
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import malformed
from benchmarks.rig import (
    SECOND,
    Answer,
    FaultError,
    NodeProcess,
    Report,
    Rig,
    Robot,
    Usage,
    own_domain,
    show_reports,
    video_frames,
    write_reports,
)
from stemseg_ros.media.bag import write_bag
from stemseg_ros.media.instance_bag import InstanceBagReader
from stemseg_ros.processes import free_domain, termination_as_exit

STEP_BACK_S = 1000.0
WARM_UP_SHARE = 0.2
"""First part of the samples that a slope leaves out."""
FLAT_KB = 20.0
"""Growth of memory per cycle that counts as none."""
SHOWN = 8
"""Images at once, when the node has to answer."""
BATCH = 10
"""Messages sent at once; fewer than the node's subscription holds."""


def growth_kb(samples: Sequence[Usage]) -> float:
    """Slope of the memory in kB per sample, by a straight line through those after the warm-up."""
    rest = [sample.anonymous_mb for sample in samples[int(len(samples) * WARM_UP_SHARE) :]]
    if len(rest) < 2:
        return 0.0
    return float(np.polyfit(np.arange(len(rest)), rest, 1)[0]) * 1e3


def leaks(report: Report, samples: Sequence[Usage], kind: str) -> None:
    """Add what a process holds after the warm-up and in the end to a report."""
    first, last = samples[int(len(samples) * WARM_UP_SHARE)], samples[-1]
    report.numbers |= {
        f"memory in the end, MB ({kind})": last.rss_mb,
        f"growth, kB per {kind}": growth_kb(samples),
        f"threads ({kind})": last.threads,
        f"open files ({kind})": last.files,
    }
    report.series[f"memory after each {kind}, MB"] = [sample.anonymous_mb for sample in samples]
    report.checks[f"no more threads, {kind}"] = last.threads <= first.threads
    report.checks[f"no more open files, {kind}"] = last.files <= first.files


def kill_cameras(
    rig: Rig, node: NodeProcess, rounds: int, answers: int = 6, back_every: int = 10
) -> Report:
    """Start a camera, wait for answers to its images, kill it; and again.

    The stamps of every back_every-th one lie before those of the one before. The node must not
    take the time until the next camera for a jump (node.max_gap).
    """
    report = Report(f"camera killed and started again {rounds} times")
    np.save(rig.out / "still.npy", rig.images[0])
    waits, samples, back = [], [], 0
    with node.robot(camera=False) as listener:
        for index in range(rounds + 1):
            back += index % back_every == back_every - 1
            waits.append(_one_camera(rig, listener, index, back * STEP_BACK_S, answers))
            samples.append(node.usage)
    epochs: dict[int, list[Answer]] = {}
    for answer in listener.answers:
        epochs.setdefault(answer.epoch, []).append(answer)
    report.numbers |= {
        "answers": len(listener.answers),
        "median s from the start of a camera to an answer": median(waits),
        "longest": max(waits),
        "times that stamps went back": back,
        "epochs": len(epochs),
    }
    leaks(report, samples, "restart")
    first = min(epochs)
    report.checks |= {
        "the node lives": node.alive,
        "an epoch for each time that stamps went back, and no other": sorted(epochs)
        == list(range(first, first + back + 1)),
        "stamps advance within each epoch": all(
            before.stamp_ns < after.stamp_ns
            for part in epochs.values()
            for before, after in pairwise(part)
        ),
        "a still scene keeps its ids within an epoch": all(
            len({answer.track_ids for answer in part}) == 1 for part in epochs.values()
        ),
    }
    return report


def _one_camera(rig: Rig, listener: Robot, index: int, behind: float, answers: int) -> float:
    """Seconds from the start of a camera to the first answer to one of its images."""
    words = [str(rig.out / "still.npy"), "--topic", listener.topic]
    words += ["--rate", "20", "--behind", str(behind)]
    words += ["--best-effort"] if index % 2 else []  # every other one
    begin, first_stamp = time.monotonic(), time.time_ns() - int(behind * SECOND)
    last_stamp = first_stamp + int(STEP_BACK_S / 2 * SECOND)

    def answered() -> int:
        return sum(first_stamp <= a.stamp_ns < last_stamp for a in listener.answers)

    with rig.process("camera", "benchmarks.camera", words) as camera:
        listener.need(answered, f"an answer to camera {index}")
        seconds = time.monotonic() - begin
        listener.need(lambda: answered() >= answers, f"{answers} answers to camera {index}")
        os.kill(camera.pid, signal.SIGKILL)
    return seconds


def kill_nodes(rig: Rig, rounds: int, within: float) -> Report:
    """Play a bag, kill the node, start it again while the bag goes on; and again."""
    report = Report(f"node killed {rounds} times while a bag plays")
    bag, recorded = rig.out / "played.mcap", rig.out / "recorded.mcap"
    bag.unlink(missing_ok=True)
    recorded.unlink(missing_ok=True)
    write_bag(((SECOND + i * SECOND // 10, x) for i, x in enumerate(rig.images)), bag)
    play = ["--bag", str(bag), "--topic", "/image", "--in-flight", "0", "--loop"]
    waits: list[float] = []
    with ExitStack() as stack:
        others = [
            stack.enter_context(rig.process(name, f"stemseg_ros.ros.{name}", words))
            for name, words in (("player", play), ("recorder", ["--out", str(recorded)]))
        ]
        for index in range(rounds + 1):
            waits.append(_one_node(rig, index, within, last=index == rounds))
        report.checks["player and recorder live"] = all(x.exit_code is None for x in others)
        others[1].stop()
    with InstanceBagReader(recorded) as reader:
        written = sum(1 for _ in reader)
    report.numbers |= {
        "s from the first start to an answer": waits[0],
        "median s from a kill to the next answer": median(waits[1:] or waits),
        "longest": max(waits[1:] or waits),
        "answers recorded": written,
    }
    report.checks[f"answers again within {within:g} s"] = max(waits) <= within
    report.checks["the record holds answers of all nodes"] = written > 3 * (rounds + 1)
    return report


def _one_node(rig: Rig, index: int, within: float, last: bool) -> float:
    """Seconds from the start of a node to its first answer; kills it, but for the last one."""
    begin = time.monotonic()
    with rig.node(f"node-{index}") as node, node.robot(camera=False) as listener:
        listener.need(lambda: listener.answers, f"an answer of node {index}", within)
        seconds = time.monotonic() - begin
        listener.need(lambda: len(listener.answers) > 3, f"answers of node {index}")
        if not last:
            node.kill()
    return seconds


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
            peer.trigger("flush")  # answered when the images before are seen
        peer.spin_until(lambda: peer.count("frames_refused") - before >= cases, 5.0)
        refused = peer.count("frames_refused") - before
        for data in garbled:
            peer.publish(data)
        peer.trigger("flush")
        good = 4
        for index in range(good):
            peer.show(rig.images[0], (10**9 + index) * SECOND // 10)
        peer.trigger("flush")
        peer.spin_until(lambda: len(peer.answers) >= good, 30.0)
    report.numbers |= {"malformed": cases, "frames_refused": refused, "garbled": len(garbled)}
    report.checks |= {
        "the node lives": node.alive,
        "each malformed one is counted as refused": refused == cases,
        "good images after them are answered": len(peer.answers) == good,
    }
    return report


def switch(rig: Rig, node: NodeProcess, activations: int, configurations: int) -> Report:
    """Deactivate and activate, then clean up and configure as well, each time with images
    between."""
    report = Report(f"{activations} activations, {configurations} configurations")
    topics: list[int] = []
    with node.robot() as peer:
        _answer(rig, peer, 0)
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
                _answer(rig, peer, 1 + index)
                samples.append(node.usage)
                topics.append(peer.endpoints())
            leaks(report, samples, kind)
            report.numbers[f"s per {kind}"] = (time.monotonic() - begin) / rounds
            report.checks[f"flat memory, {kind}"] = growth_kb(samples) <= FLAT_KB
        report.checks["the node lives"] = node.alive
    report.numbers["topics and services"] = topics[-1]
    report.checks["no more topics and services"] = topics[-1] <= min(topics)
    return report


def _answer(rig: Rig, peer: Robot, second: int) -> None:
    """Wait until the node listens, show a window of images, and wait for an answer."""
    peer.connect()
    seen = len(peer.answers)
    for index in range(SHOWN):
        peer.show(rig.images[index % len(rig.images)], second * SECOND + index * SECOND // 10)
    peer.need(lambda: len(peer.answers) > seen, "an answer after the activation")


def separate(rig: Rig, nodes: Mapping[str, NodeProcess]) -> Report:
    """Nodes, by name, of different namespaces or domains."""
    report = Report("namespaces and domains")
    with ExitStack() as stack:
        peers = {name: stack.enter_context(node.robot()) for name, node in nodes.items()}
        for peer in peers.values():
            peer.connect()
        seen = {name: peer.count("frames_in") for name, peer in peers.items()}
        for shown, camera in peers.items():
            before = {name: len(peer.answers) for name, peer in peers.items()}
            _answer(rig, camera, 0)
            camera.trigger("flush")  # else the rest comes after a pause
            for name, peer in peers.items():
                if name != shown:
                    peer.spin_for(0.5)
                    heard = len(peer.answers) > before[name]
                    report.checks[f"{name} gives no answer to the images of {shown}"] = not heard
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
        "node.max_gap:=0.0",
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
        list[str] | None, typer.Argument(help="isolation messages lifecycle camera node [all]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and the logs.")] = Path(
        "out/faults"
    ),
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="Of the nodes, as in -p config:=kitti_mots.")
    ] = None,
    restarts: Annotated[int, typer.Option(help="Of the camera.")] = 50,
    respawns: Annotated[int, typer.Option(help="Of the node.")] = 5,
    within: Annotated[float, typer.Option(help="Seconds until a new node has to answer.")] = 60.0,
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
        # One trio of nodes for everything, but for the one that is killed.
        nodes = start_separate(rig, stack)
        front = nodes["front"]
        tries = {
            "isolation": lambda: [separate(rig, nodes)],
            "messages": lambda: [
                refuse_at_conversion(cases),
                *(refuse_in_node(rig, nodes[name], through) for name in ("front", "rear")),
            ],
            "lifecycle": lambda: [switch(rig, front, activations, configurations)],
            "camera": lambda: [kill_cameras(rig, front, restarts)],
            "node": lambda: [kill_nodes(rig, respawns, within)],
        }
        if unknown := set(faults or ()) - set(tries):
            raise typer.BadParameter(f"{', '.join(sorted(unknown))}; known: {', '.join(tries)}")
        reports = try_faults(rig, {x: tries[x] for x in tries if x in (faults or tries)})
    sys.exit(0 if all(report.passed for report in reports) else 1)


if __name__ == "__main__":
    typer.run(main)
