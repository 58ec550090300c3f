"""Memory and rate of several cameras: one process with one network, and one process for each.

    python benchmarks/several_cameras.py --cameras 1 2 4 --device cpu

Each round measures both ways, so that other work on the machine weighs on both. The frames are
drawn (moving_scene in cli/bench.py), the weights random unless given. Memory is the proportional
set size of all processes together, in which pages that they share count once, after the
measurement. CPU time is the fair number on a machine with other work: it counts what the frames
cost, not what the others took away. ROS is left out; it adds the same to every process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Measured:
    """One process, or several together."""

    frames: int
    wall_s: float
    cpu_s: float
    memory_mb: float
    cuda_mb: float

    @classmethod
    def together(cls, parts: list[Measured]) -> Measured:
        """Of processes that ran side by side."""
        return cls(
            sum(part.frames for part in parts),
            max(part.wall_s for part in parts),
            sum(part.cpu_s for part in parts),
            sum(part.memory_mb for part in parts),
            sum(part.cuda_mb for part in parts),
        )


def serve(options: argparse.Namespace) -> None:
    """A process: warm up, wait for a line on stdin, measure, print one line of JSON, and wait for
    the end of stdin, so that all processes are there while memory is measured."""
    import torch

    from stemseg_ros.cli.bench import moving_scene
    from stemseg_ros.records import Frame
    from stemseg_ros.stream import open_model

    model = open_model(options.config, options.checkpoint, options.device)
    cameras = [model.stream() for _ in range(options.serve)]
    width, height = (int(side) for side in options.size.split("x"))
    warmup = model.config.latency.in_flight
    number = warmup + options.frames
    scenes = [
        list(islice(moving_scene((width, height), seed=n), number)) for n in range(len(cameras))
    ]

    def push(index: int) -> None:
        frames = [Frame(scene[index][1], scene[index][0]) for scene in scenes]
        for outcome in model.push_all(list(zip(cameras, frames, strict=True))):
            if isinstance(outcome, Exception):
                raise outcome

    for index in range(warmup):
        push(index)
    print("ready", flush=True)
    sys.stdin.readline()
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(warmup, number):
        push(index)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print("done", flush=True)
    sys.stdin.readline()
    cuda = torch.cuda.max_memory_reserved() / 1e6 if options.device.startswith("cuda") else 0.0
    frames = options.frames * len(cameras)
    print(json.dumps(asdict(Measured(frames, wall, cpu, proportional_set_mb(), cuda))), flush=True)
    sys.stdin.readline()


def proportional_set_mb() -> float:
    """Memory of this process; pages shared with n others count 1 / (n + 1)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def measure(options: argparse.Namespace, processes: int, cameras: int) -> Measured:
    """So many processes side by side, each with so many cameras."""
    arguments = [sys.executable, __file__, "--serve", str(cameras), *forwarded(options)]
    children = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]

    def all_say() -> list[str]:
        lines = [child.stdout.readline() for child in children if child.stdout]
        if not all(lines):
            raise SystemExit("a process failed")
        return lines

    def go() -> None:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()

    all_say()  # ready
    go()
    all_say()  # done
    go()
    parts = [Measured(**json.loads(line)) for line in all_say()]
    go()
    for child in children:
        child.wait()
    return Measured.together(parts)


def forwarded(options: argparse.Namespace) -> list[str]:
    names = ("config", "checkpoint", "device", "size", "frames")
    return [word for name in names for word in (f"--{name}", str(getattr(options, name)))]


def main() -> None:
    """Print a table; write it as JSON on demand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--config", default="lite")
    parser.add_argument("--checkpoint", default="random")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--size", default="960x544", help="of the frames, WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int, default=16, help="of each camera, measured")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    rows: list[dict[str, Any]] = []
    print(
        f"threads per process: {os.environ.get('OMP_NUM_THREADS', 'all')}; {options.rounds} rounds"
    )
    print("cameras  processes  frames/s  CPU ms/frame  memory MB  CUDA MB")
    for round_number in range(options.rounds):
        for cameras in options.cameras:
            for processes in sorted({1, cameras}):
                result = measure(options, processes, cameras // processes)
                rows.append(
                    {"round": round_number, "cameras": cameras, "processes": processes}
                    | asdict(result)
                )
                print(
                    f"{cameras:7}  {processes:9}  {result.frames / result.wall_s:8.2f}  "
                    f"{1e3 * result.cpu_s / result.frames:12.0f}  {result.memory_mb:9.0f}  "
                    f"{result.cuda_mb:7.0f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
