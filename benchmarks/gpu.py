"""All tests and measurements that need a GPU, in one call of a few minutes.

    python -m benchmarks.gpu --out out/gpu

Sections, in this order: the tests that need a GPU, the accuracy of precisions, the speed of
engines, modes and temporal taps, how often a frame makes the host wait for the device, and the
memory of several cameras. Each is written to ``gpu.json`` as soon as it is done, with the card and
the date. A section or a contestant that fails, or for which no time is left, is recorded there
with the reason, and the others go on. ``--device cpu`` tries the script itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, product
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.speed import push_frames
from stemseg_ros.cli.bench import moving_scene
from stemseg_ros.cli.options import SetOption, config_from
from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.execution.comparison import RecordingEngine, relative_difference
from stemseg_ros.execution.device import describe_device, resolve_device
from stemseg_ros.execution.engine import Tensors
from stemseg_ros.records import Frame, Image
from stemseg_ros.stream import Model, open_model

KITTI = (1242, 375)
"""Width and height of the frames."""
PRESETS = ("lite", "kitti_mots")
"""With untrained weights, so that no files are needed; kitti_mots is the R-101."""
PRECISIONS = ("float32", "bfloat16", "float16")
SPEED: dict[str, dict[str, Any]] = {
    **{
        f"torch, {precision}": {"runtime.engine": "torch", "runtime.precision": precision}
        for precision in PRECISIONS
    },
    "torch, float32, without taps": {
        "runtime.engine": "torch",
        "runtime.precision": "float32",
        "window.taps": False,
    },
    "torch, float16, zero look-ahead": {
        "runtime.engine": "torch",
        "runtime.precision": "float16",
        "window.mode": "online",
    },
    "torch, float16, compiled": {
        "runtime.engine": "torch",
        "runtime.precision": "float16",
        "runtime.compile": True,
    },
    "onnxruntime": {"runtime.engine": "onnxruntime", "runtime.precision": "auto"},
    "tensorrt, float16": {"runtime.engine": "tensorrt", "runtime.precision": "float16"},
}
CAMERAS = ("1", "2", "4")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
"""Calls in which the host waits, by their names in the profiler."""


@dataclass(slots=True)
class Plan:
    """Parameters of all sections, and the report."""

    device: str
    frames: int
    rounds: int
    settings: list[str]
    deadline: float
    """time.monotonic() after which nothing new is started."""
    size: tuple[int, int] = KITTI
    report: dict[str, Any] = field(default_factory=dict)

    def config(self, preset: str, changes: dict[str, Any]) -> Config:
        """Load a preset with the changes of a contestant; settings of the command line take
        precedence."""
        return config_from(preset, self.settings, changes)

    def scene(self) -> list[tuple[int, Image]]:
        """Draw the frames of all contestants, with their stamps."""
        return list(islice(moving_scene(self.size), self.frames))

    @property
    def late(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() > self.deadline


def run_tests(plan: Plan) -> dict[str, Any]:
    """Run the tests that are marked with gpu, in at most half of the time."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    left = max(10.0, (plan.deadline - time.monotonic()) / 2)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=left)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {
        "exit_code": done.returncode,
        "summary": lines[-1] if lines else done.stderr[-500:],
        "failed": failed,
    }


def compare_precisions(plan: Plan) -> dict[str, Any]:
    """Compare the outputs of every function with those in float32 on the CPU, for the same inputs:
    largest differences relative to the largest value."""
    rows: dict[str, Any] = {}
    for preset in PRESETS:
        exact = {"runtime.engine": "torch", "runtime.precision": "float32"}
        reference = open_model(plan.config(preset, exact), "random", "cpu")
        recorder = RecordingEngine(reference.engine)
        push_frames(Model(reference.config, recorder), plan.scene())
        for precision in PRECISIONS:
            if plan.late:
                return {**rows, "left out": "no time left"}
            changes = {**exact, "runtime.precision": precision}
            model = open_model(plan.config(preset, changes), "random", plan.device)
            rows[f"{preset}, {precision}"] = {
                function: compare_outputs(reference, model, function, inputs)
                for function, inputs in recorder.inputs.items()
            }
    return rows


def compare_outputs(
    reference: Model, model: Model, function: str, inputs: Tensors
) -> list[float | None]:
    """Compute the largest difference of each output of a function, relative to the largest value
    of the reference; None if values exceed the range of the precision."""
    (expected,) = reference.engine.run(function, [inputs])
    (found,) = model.engine.run(function, [tuple(t.to(model.engine.device) for t in inputs)])
    differences = [
        relative_difference(a, b) for a, b in zip(found, expected, strict=True) if b.numel()
    ]
    return [value if isfinite(value) else None for value in differences]


def measure_speed(plan: Plan) -> dict[str, Any]:
    """Measure milliseconds per frame of the whole pipeline in interleaved rounds; stages in a
    separate run, in which every call waits for the device."""
    rows: dict[str, Any] = {}
    models: dict[str, Model] = {}
    scene = plan.scene()
    for (name, changes), preset in product(SPEED.items(), PRESETS):  # slow starters come last
        key = f"{preset}, {name}"
        try:
            if plan.late:
                raise StemsegError("no time left")
            begin = time.perf_counter()
            models[key] = open_model(plan.config(preset, changes), "random", plan.device)
            push_frames(models[key], scene)
        except Exception as error:  # runtimes and compilers raise errors of their own
            models.pop(key, None)
            known = isinstance(error, StemsegError)
            rows[key] = {"left out": str(error) if known else f"{type(error).__name__}: {error}"}
            continue
        engine = f"{models[key].engine.description}, {models[key].engine.precision}"
        rows[key] = {"engine": engine, "start_s": time.perf_counter() - begin, "ms": []}
    for _ in range(plan.rounds):
        for key, model in models.items():
            rows[key]["ms"].append(push_frames(model, scene)[0])
    for key in models:
        rows[key]["fps"] = 1e3 / median(rows[key]["ms"])
    for preset in PRESETS:
        key = f"{preset}, torch, float32"
        if key in models:
            timed = open_model(models[key].config, "random", plan.device, timed=True)
            push_frames(timed, scene)
            rows[key]["stages_ms"] = push_frames(timed, scene)[1]
    return rows


def count_waits(plan: Plan) -> dict[str, Any]:
    """Count the calls per frame in which the host waits for the device, with the profiler."""
    if not torch.cuda.is_available():
        return {"left out": "no CUDA device"}
    rows: dict[str, Any] = {}
    for preset in PRESETS:
        model = open_model(plan.config(preset, SPEED["torch, float32"]), "random", plan.device)
        scene, stream = plan.scene(), model.stream()
        for stamp_ns, image in scene:
            stream.push(Frame(image, stamp_ns))
        with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as run:
            for stamp_ns, image in scene:
                stream.push(Frame(image, stamp_ns + 10**10))
        counts = Counter(event.key for event in run.events() if event.key in WAITS)
        copies = sum(1 for event in run.events() if "Memcpy DtoH" in event.key)
        rows[preset] = {
            **{name: count / len(scene) for name, count in counts.items()},
            "copies to the host": copies / len(scene),
        }
    return rows


def measure_memory(plan: Plan) -> dict[str, Any]:
    """Measure CAMERAS in one process and in one process each; returns rows of
    ``several_cameras``."""
    out = Path(plan.report["folder"]) / "cameras.json"
    script = Path(__file__).with_name("several_cameras.py")
    command = [
        *(sys.executable, str(script), "--cameras", *CAMERAS, "--frames", str(plan.frames)),
        *("--device", plan.device, "--json", str(out), "--size", "x".join(map(str, plan.size))),
    ]
    left = max(10.0, plan.deadline - time.monotonic())
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=left)
    return {"rows": json.loads(out.read_text(encoding="utf-8"))}


SECTIONS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "tests": run_tests,
    "precisions": compare_precisions,
    "speed": measure_speed,
    "waits": count_waits,
    "memory": measure_memory,
}


def main(
    out: Annotated[Path, typer.Option(help="Folder for gpu.json.")] = Path("out/gpu"),
    device: Annotated[str, typer.Option(help="cuda, cuda:N, or cpu to try the script.")] = "cuda",
    only: Annotated[list[str] | None, typer.Option(help="Sections by name.")] = None,
    frames: Annotated[int, typer.Option(min=8, help="Frames of a round.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    minutes: Annotated[float, typer.Option(min=0.1, help="Nothing starts after it.")] = 6.0,
    settings: SetOption = None,
) -> None:
    """Test and measure on a GPU; the results appear in OUT/gpu.json section by section."""
    console = Console(highlight=False)
    deadline = time.monotonic() + 60 * minutes
    plan = Plan(device, frames, rounds, settings or [], deadline)
    try:
        card = describe_device(resolve_device(device))
        unknown = set(only or []) - set(SECTIONS)
        if unknown:
            raise typer.BadParameter(f"no section {', '.join(unknown)}: {', '.join(SECTIONS)}")
    except StemsegError as error:
        console.print(f"[red]error[/red] {error}")
        raise typer.Exit(2) from error
    out.mkdir(parents=True, exist_ok=True)
    plan.report = {
        "device": card,
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "folder": str(out),
    }
    for name in only or SECTIONS:
        begin = time.monotonic()
        plan.report[name] = run_section(SECTIONS[name], plan)
        plan.report[name]["seconds"] = round(time.monotonic() - begin, 1)
        text = json.dumps(plan.report, indent=2)
        (out / "gpu.json").write_text(text + "\n", encoding="utf-8")
        console.print(name, json.dumps(plan.report[name], indent=1))


def run_section(section: Callable[[Plan], dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """Run a section; returns its result, or the reason why there is none, so that the others go
    on."""
    if plan.late:
        return {"left out": "no time left"}
    try:
        return section(plan)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    typer.run(main)
