"""The ``stemseg`` command. Commands parse and print; the work is done by the modules they import
when called.

A mistake of the user ends in one line on standard error and exit code 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stemseg_ros import __version__
from stemseg_ros.cli.bag import bag_app
from stemseg_ros.cli.evaluate import convert, evaluate
from stemseg_ros.cli.export import export
from stemseg_ros.cli.options import (
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    PresetArgument,
    SetOption,
    SourceArgument,
    StrictOption,
    TopicOption,
    config_from,
    frame_size,
)
from stemseg_ros.cli.propagate import propagate
from stemseg_ros.cli.pseudo_label import pseudo_label
from stemseg_ros.cli.view import view
from stemseg_ros.errors import StemsegError, needs_extra


class ErrorBoundary(TyperGroup):
    """The one place where errors of the user become a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StemsegError as error:
            typer.echo(f"stemseg: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=ErrorBoundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Video instance segmentation and tracking: recordings, training, evaluation, demo.",
)
app.add_typer(bag_app, name="bag")
data_app = typer.Typer(no_args_is_help=True, help="Labelled data that a preset trains on.")
app.add_typer(data_app, name="data")
app.command()(evaluate)
app.command()(convert)
app.command()(export)
app.command()(propagate)
app.command()(view)
data_app.command("pseudo-label")(pseudo_label)

DataOption = Annotated[
    Path, typer.Option("--data", help="Folder that the roots of training.mix are relative to.")
]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"stemseg {__version__}")
        raise typer.Exit()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    video: Annotated[
        Path | None, typer.Option(help="A video.", show_default="the bundled one")
    ] = None,
    config: ConfigOption = "lite",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Track the cars of a video through the real ROS 2 node: bag, overlay video, contact sheet,
    summary."""
    from stemseg_ros.cli.demo import run_demo
    from stemseg_ros.execution.device import resolve_device

    run_demo(
        out, video=video, config=config, checkpoint=checkpoint, device=str(resolve_device(device))
    )


@app.command()
def run(
    source: SourceArgument,
    out: Annotated[
        Path, typer.Option(help="Folder for instances.txt, overlay.mp4 and summary.json.")
    ] = Path("out/run"),
    config: ConfigOption = "lite",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    topic: TopicOption = None,
    fps: Annotated[
        float | None,
        typer.Option(
            help="Frame rate of an image folder.", show_default="10, or that of the video"
        ),
    ] = None,
    settings: SetOption = None,
    strict: StrictOption = False,
) -> None:
    """Segment and track a recording: KITTI-MOTS text, overlay video, summary."""
    tree = config_from(config, settings)
    from stemseg_ros.cli.console import frames_progress, print_run, report_damage
    from stemseg_ros.execution.device import describe_device, resolve_device
    from stemseg_ros.labelling.job import run_source
    from stemseg_ros.media.outputs import appear_together
    from stemseg_ros.media.sources import open_source
    from stemseg_ros.stamps import dropped_lines
    from stemseg_ros.stream import open_model

    place = resolve_device(device)
    with (
        open_source(source, topic, fps) as frames,
        appear_together(out, last="summary.json") as partial,
    ):
        stream = open_model(tree, checkpoint, place).stream()
        with frames_progress(frames.name, frames.frames) as progress:
            summary = run_source(
                frames,
                stream,
                partial,
                checkpoint=checkpoint or "bundled",
                device=describe_device(place),
                progress=progress,
            )
    print_run(summary, out)
    report_damage(frames.damage)
    if summary.tracks > len(summary.track_list):
        typer.echo(
            f"stemseg: {out / 'instances.txt'} holds the {len(summary.track_list)} largest of "
            f"{summary.tracks} tracks",
            err=True,
        )
    for line in dropped_lines(summary.dropped):
        typer.echo(f"stemseg: {line}", err=True)
    if strict and (frames.damage or summary.dropped):
        raise typer.Exit(3)


@app.command()
def bench(
    config: ConfigOption = "lite",
    checkpoint: Annotated[str, typer.Option(help="Weights file; random: untrained.")] = "random",
    device: DeviceOption = "auto",
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the frames.")] = "1242x375",
    length: Annotated[
        int | None, typer.Option(help="T, frames of a window.", show_default="preset")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Tc, frames shared.", show_default="preset")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="preset")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to measure.")] = 64,
    warmup: Annotated[int, typer.Option(min=0, help="Frames before the measurement.")] = 16,
    json: JsonOption = None,
    settings: SetOption = None,
) -> None:
    """Time each stage per frame and the whole pipeline, on synthetic frames (few objects for
    trained weights)."""
    given = {"window.length": length, "window.overlap": overlap, "runtime.precision": precision}
    tree = config_from(
        config, settings, {name: value for name, value in given.items() if value is not None}
    )
    shape = frame_size(size)
    from dataclasses import asdict

    from stemseg_ros.cli import bench as benchmark
    from stemseg_ros.cli.console import frames_progress, print_bench
    from stemseg_ros.execution.device import resolve_device
    from stemseg_ros.labelling.job import write_json
    from stemseg_ros.stream import open_model

    place = resolve_device(device)
    stream = open_model(tree, checkpoint, place, timed=True).stream()
    with frames_progress("bench", warmup + frames) as progress:
        report = benchmark.bench(
            stream,
            shape,
            frames=frames,
            warmup=warmup,
            checkpoint=checkpoint,
            device=place,
            progress=progress,
        )
    print_bench(report)
    if json is not None:
        write_json(json, asdict(report))


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder of labelled clips and stills.")],
    out: Annotated[
        Path, typer.Option(help="Run folder: settings, logs, checkpoint, weights.")
    ] = Path("out/train"),
    config: ConfigOption = "lite",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder.")
    ] = False,
    device: DeviceOption = "auto",
    settings: SetOption = None,
) -> None:
    """Train the network of a preset. SIGTERM and SIGINT save a checkpoint after the running step
    and exit with 143 and 130."""
    tree = config_from(config, settings)
    with needs_extra("train"):
        from stemseg_ros.training.train import TrainingStopped
        from stemseg_ros.training.train import train as train_network
    from stemseg_ros.cli.console import training_progress
    from stemseg_ros.training.distributed import this_process

    main_process = this_process().main
    try:
        with training_progress(shown=main_process) as report:
            weights = train_network(tree, data, out, resume=resume, report=report, device=device)
    except TrainingStopped as stopped:
        if main_process:
            typer.echo(f"stemseg: {stopped}", err=True)
        raise typer.Exit(128 + stopped.signum) from None
    if main_process:
        typer.echo(f"weights: {weights}")


@data_app.command("check")
def data_check(
    config: PresetArgument, data: DataOption = Path(), settings: SetOption = None
) -> None:
    """Read every image and label of the training mix: counts, sizes, classes, ignored areas, bad
    files."""
    tree = config_from(config, settings)
    from stemseg_ros.cli.console import frames_progress, print_data
    from stemseg_ros.datasets.check import check_mix

    reports = check_mix(tree, data, frames_progress)
    if any(report.frames for report in reports):
        print_data(reports)
    # Entries of one pack that is not there all say the same.
    bad = dict.fromkeys(line for report in reports for line in report.bad)
    for line in bad:
        typer.echo(f"stemseg: {line}", err=True)
    if bad:
        raise typer.Exit(2)


@data_app.command("show")
def data_show(
    config: PresetArgument,
    out: Annotated[Path, typer.Option(help="The contact sheet to write, a PNG.")] = Path(
        "out/clips.png"
    ),
    data: DataOption = Path(),
    clips: Annotated[int, typer.Option(min=1, max=200, help="Clips, one row each.")] = 12,
    settings: SetOption = None,
) -> None:
    """Draw the first clips of training with masks and ids."""
    tree = config_from(config, settings)
    from stemseg_ros.training.clip_sheet import show_clips

    frames = show_clips(tree, data, out, clips)
    typer.echo(f"{out}: {clips} clips of {frames} frames")
