"""The commands ``stemseg bag ...``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemseg_ros.cli.evaluate import FormatName

if TYPE_CHECKING:
    from stemseg_ros.media.sources import FrameSource


class Encoding(str, Enum):
    """How images lie in a bag."""

    bgr8 = "bgr8"
    jpeg = "jpeg"


class StorageFormat(str, Enum):
    """File format of a bag."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


bag_app = typer.Typer(no_args_is_help=True, help="ROS 2 bags from videos and images, without ROS.")

BagOut = Annotated[
    Path | None,
    typer.Argument(
        metavar="[BAG]",
        help="The bag to write: a new folder, or a .mcap or .db3 file.",
        show_default="out/NAME.mcap",
    ),
]
TopicOption = Annotated[str, typer.Option(help="Topic of the images.")]
FrameIdOption = Annotated[str, typer.Option(help="frame_id of the headers.")]
EncodingOption = Annotated[
    Encoding, typer.Option(help="bgr8: sensor_msgs/Image; jpeg: CompressedImage.")
]
StorageOption = Annotated[
    StorageFormat | None, typer.Option(help="File format; default: by the name, else mcap.")
]


@bag_app.command("from-video")
def bag_from_video(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    bag: BagOut = None,
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
    bag: BagOut = None,
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
    from stemseg_ros.media.sources import ImageFolder, numbered_frames

    source = ImageFolder(folder, fps)
    bag = bag or _default_bag(source, storage)
    if ground_truth is None:
        _write_bag(source, bag, topic, frame_id, encoding, storage)
        return
    from stemseg_ros.cli.console import frames_progress, report_damage
    from stemseg_ros.evaluation.truth_bag import read_sequence, write_labelled_bag
    from stemseg_ros.formats.sequence_masks import EvaluationError

    truth = read_sequence(ground_truth, format.value, sequence)
    if source.frames < truth.frames:
        raise EvaluationError(
            f"{source.frames} images in {folder}, but the ground truth has {truth.frames} frames"
        )
    with source, frames_progress(source.name, source.frames) as progress:
        count = write_labelled_bag(
            numbered_frames(source),
            truth,
            bag,
            topic=topic,
            frame_id=frame_id,
            progress=progress,
            encoding=encoding.value,
            storage=storage.value if storage else None,
        )
    report_damage(source.damage)
    typer.echo(f"{count} labelled frames in {bag}, topic {topic}")


@bag_app.command("info")
def bag_info(
    bag: Annotated[Path, typer.Argument(help="Folder of a bag, .mcap or .db3 file.")],
) -> None:
    """Topics, number of messages, duration."""
    from stemseg_ros.cli.console import print_bag
    from stemseg_ros.media.bags import bag_info as read_info

    print_bag(read_info(bag))


def _default_bag(source: FrameSource, storage: StorageFormat | None) -> Path:
    suffix = ".db3" if storage is StorageFormat.sqlite3 else ".mcap"
    return Path("out") / f"{source.name}{suffix}"


def _write_bag(
    source: FrameSource,
    bag: Path | None,
    topic: str,
    frame_id: str,
    encoding: Encoding,
    storage: StorageFormat | None,
) -> None:
    from stemseg_ros.cli.console import frames_progress, report_damage
    from stemseg_ros.media.bags import write_bag

    bag = bag or _default_bag(source, storage)
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
    report_damage(source.damage)
    typer.echo(f"{count} frames in {bag}, topic {topic}")
