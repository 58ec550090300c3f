"""The ``stemseg`` command. Commands parse and print; the work is done by the modules they import
when called.

A mistake of the user ends in one line on standard error and exit code 2.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stemseg_ros import __version__
from stemseg_ros.errors import StemsegError, needs_extra
from stemseg_ros.evaluation.commands import FormatName, convert, evaluate

if TYPE_CHECKING:
    from stemseg_ros.config import Config
    from stemseg_ros.media.sources import FrameSource


class UsageError(StemsegError):
    """An option has a value that cannot be read."""


class ErrorBoundary(TyperGroup):
    """The one place where errors of the user become a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StemsegError as error:
            typer.echo(f"stemseg: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from error


class Encoding(str, Enum):
    """How images lie in a bag."""

    bgr8 = "bgr8"
    jpeg = "jpeg"


class Storage(str, Enum):
    """File format of a bag."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


app = typer.Typer(
    cls=ErrorBoundary,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Video instance segmentation by spatio-temporal embeddings (STEm-Seg).",
)
bag_app = typer.Typer(no_args_is_help=True, help="ROS 2 bags from videos and images, without ROS.")
app.add_typer(bag_app, name="bag")
data_app = typer.Typer(no_args_is_help=True, help="Labelled data that a preset trains on.")
app.add_typer(data_app, name="data")
app.command()(evaluate)
app.command()(convert)

ConfigOption = Annotated[
    str,
    typer.Option("--config", help="Preset (lite, kitti_mots, davis, youtube_vis) or YAML file."),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="Weights file; random: untrained.",
        show_default="bundled with the preset",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting by its dotted name; may be repeated.",
    ),
]
PresetArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="Preset or YAML file.")]
DataOption = Annotated[
    Path, typer.Option("--data", help="Folder that the roots of training.mix are relative to.")
]
BagOut = Annotated[Path, typer.Argument(metavar="BAG", help="The bag to write, a new folder.")]
TopicOption = Annotated[str, typer.Option(help="Topic of the images.")]
FrameIdOption = Annotated[str, typer.Option(help="frame_id of the headers.")]
EncodingOption = Annotated[
    Encoding, typer.Option(help="bgr8: sensor_msgs/Image; jpeg: CompressedImage.")
]
StorageOption = Annotated[
    Storage | None, typer.Option(help="File format; default: by the name, else mcap.")
]


def main() -> None:
    """Entry point of the console script."""
    app()


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
    from stemseg_ros.demo import run_demo
    from stemseg_ros.device import resolve_device

    run_demo(
        out, video=video, config=config, checkpoint=checkpoint, device=str(resolve_device(device))
    )


@app.command()
def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A video, a folder of images (or 'folder/*.jpg'), or a ROS 2 bag.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for instances.txt, overlay.mp4 and summary.json.")
    ],
    config: ConfigOption = "lite",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    topic: Annotated[
        str | None, typer.Option(help="Image topic of a bag.", show_default="the only one")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            help="Frame rate of an image folder.", show_default="10, or that of the video"
        ),
    ] = None,
    settings: SetOption = None,
) -> None:
    """Segment and track a recording: KITTI-MOTS text, overlay video, summary."""
    tree = config_from(config, settings)
    from stemseg_ros.console import frames_progress, print_run
    from stemseg_ros.device import describe_device, resolve_device
    from stemseg_ros.media.sources import open_source
    from stemseg_ros.pipeline import Pipeline
    from stemseg_ros.run import prepare_output, run_source

    place = resolve_device(device)
    with open_source(source, topic, fps) as frames:
        prepare_output(out)
        pipeline = Pipeline(tree, checkpoint, str(place))
        with frames_progress(frames.name, frames.frames) as progress:
            summary = run_source(
                frames,
                pipeline,
                out,
                checkpoint=checkpoint or "bundled",
                device=describe_device(place),
                progress=progress,
            )
        announced = frames.frames
    print_run(summary, out)
    if summary.tracks > len(summary.track_list):
        typer.echo(
            f"stemseg: {out / 'instances.txt'} holds the {len(summary.track_list)} largest of "
            f"{summary.tracks} tracks",
            err=True,
        )
    if announced is not None and summary.frames < announced:
        typer.echo(
            f"stemseg: {source} announces {announced} frames, {summary.frames} came", err=True
        )


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
    json: Annotated[Path | None, typer.Option(help="Also write the numbers to this file.")] = None,
    settings: SetOption = None,
) -> None:
    """Time each stage per frame and the whole pipeline, on drawn frames (few objects for trained
    weights)."""
    given = {"window.length": length, "window.overlap": overlap, "runtime.precision": precision}
    tree = config_from(
        config, settings, {name: value for name, value in given.items() if value is not None}
    )
    frame_size = _size(size)
    from dataclasses import asdict

    from stemseg_ros import bench as benchmark
    from stemseg_ros.console import frames_progress, print_bench
    from stemseg_ros.device import resolve_device
    from stemseg_ros.pipeline import Pipeline
    from stemseg_ros.run import write_json

    place = resolve_device(device)
    pipeline = Pipeline(tree, checkpoint, str(place), synchronise=True)
    with frames_progress("bench", warmup + frames) as progress:
        report = benchmark.bench(
            pipeline,
            frame_size,
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
    out: Annotated[Path, typer.Option(help="Run folder: settings, log, checkpoint, weights.")],
    config: ConfigOption = "lite",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    settings: SetOption = None,
) -> None:
    """Train the network of a preset."""
    tree = config_from(config, settings)
    with needs_extra("train"):
        from stemseg_ros.training.train import train as train_network
    from stemseg_ros.console import training_progress

    with training_progress() as report:
        weights = train_network(tree, data, out, resume=resume, report=report)
    typer.echo(f"weights: {weights}")


@data_app.command("check")
def data_check(
    config: PresetArgument, data: DataOption = Path(), settings: SetOption = None
) -> None:
    """Read every image and label of the training mix: counts, sizes, classes, ignored areas, bad
    files."""
    tree = config_from(config, settings)
    from stemseg_ros.console import frames_progress, print_data
    from stemseg_ros.datasets.check import check_mix

    reports = check_mix(tree, data, frames_progress)
    print_data(reports)
    bad = [line for report in reports for line in report.bad]
    for line in bad:
        typer.echo(f"stemseg: {line}", err=True)
    if bad:
        raise typer.Exit(2)


@data_app.command("show")
def data_show(
    config: PresetArgument,
    out: Annotated[Path, typer.Option(help="The contact sheet to write, a PNG.")],
    data: DataOption = Path(),
    clips: Annotated[int, typer.Option(min=1, max=200, help="Clips, one row each.")] = 12,
    settings: SetOption = None,
) -> None:
    """Draw the first clips of training with masks and ids."""
    tree = config_from(config, settings)
    from stemseg_ros.datasets.show import show_clips

    show_clips(tree, data, out, clips)
    typer.echo(f"{out}: {clips} clips of {tree.window.length} frames")


@bag_app.command("from-video")
def bag_from_video(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    bag: BagOut,
    topic: TopicOption = "/camera/image_raw",
    frame_id: FrameIdOption = "camera",
    encoding: EncodingOption = Encoding.bgr8,
    storage: StorageOption = None,
) -> None:
    """Write the frames of a video, with its time stamps, to a new bag."""
    from stemseg_ros.media.sources import Video

    _write_bag(Video(video), bag, topic, frame_id, encoding, storage)


@bag_app.command("from-frames")
def bag_from_frames(
    folder: Annotated[Path, typer.Argument(help="Folder of images, or 'folder/*.jpg'.")],
    bag: BagOut,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 10.0,
    topic: TopicOption = "/camera/image_raw",
    frame_id: FrameIdOption = "camera",
    encoding: EncodingOption = Encoding.bgr8,
    storage: StorageOption = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="Ground truth of a benchmark; goes into the bag as /ground_truth/instances."
        ),
    ] = None,
    format: Annotated[
        FormatName, typer.Option(help="Format of the ground truth.")
    ] = FormatName.kitti_mots,
    sequence: Annotated[
        str | None, typer.Option(help="Sequence of the ground truth.", show_default="the only one")
    ] = None,
) -> None:
    """Write the images of a folder, and their ground truth, to a new bag."""
    from stemseg_ros.media.sources import ImageFolder

    source = ImageFolder(folder, fps)
    if ground_truth is None:
        _write_bag(source, bag, topic, frame_id, encoding, storage)
        return
    from stemseg_ros.console import frames_progress
    from stemseg_ros.evaluation.truth_bag import read_sequence, write_labelled_bag

    truth = read_sequence(ground_truth, format.value, sequence)
    with source, frames_progress(source.name, source.frames) as progress:
        count = write_labelled_bag(
            source,
            truth,
            bag,
            topic=topic,
            frame_id=frame_id,
            progress=progress,
            encoding=encoding.value,
            storage=storage.value if storage else None,
        )
    typer.echo(f"{count} labelled frames in {bag}, topic {topic}")


@bag_app.command("info")
def bag_info(
    bag: Annotated[Path, typer.Argument(help="Folder of a bag, .mcap or .db3 file.")],
) -> None:
    """Topics, number of messages, duration."""
    from stemseg_ros.console import print_bag
    from stemseg_ros.media.bag import bag_info as read_info

    print_bag(read_info(bag))


def _write_bag(
    source: FrameSource,
    bag: Path,
    topic: str,
    frame_id: str,
    encoding: Encoding,
    storage: Storage | None,
) -> None:
    from stemseg_ros.console import frames_progress
    from stemseg_ros.media.bag import write_bag

    with source, frames_progress(source.name, source.frames) as progress:
        count = write_bag(
            source,
            bag,
            topic=topic,
            frame_id=frame_id,
            encoding=encoding.value,
            storage=None if storage is None else storage.value,
            progress=progress,
        )
    typer.echo(f"{count} frames in {bag}, topic {topic}")


def config_from(
    name: str, settings: list[str] | None, options: dict[str, Any] | None = None
) -> Config:
    """The preset or file with --set and the command's own options on top."""
    from stemseg_ros.config import load_config

    return load_config(name, {**_overrides(settings or []), **(options or {})})


def _overrides(settings: list[str]) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting}: expected KEY=VALUE, for example window.overlap=2")
        try:
            overrides[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(
                f"--set {setting}: '{text}' cannot be read as a YAML value"
            ) from error
    return overrides


def _size(text: str) -> tuple[int, int]:
    """(width, height) from "1242x375"."""
    match = re.fullmatch(r"([0-9]+)x([0-9]+)", text)
    if match is None or not all(16 <= int(side) <= 16384 for side in match.groups()):
        raise UsageError(
            f"--size {text}: expected WIDTHxHEIGHT, 16 to 16384 pixels, as in 1242x375"
        )
    return int(match[1]), int(match[2])
