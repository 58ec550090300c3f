"""The command ``stemseg view``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemseg_ros.errors import StemsegError, needs_extra

if TYPE_CHECKING:
    from stemseg_ros.view.bag_frames import BagFrames
    from stemseg_ros.view.recording import Recording

IMAGE_TOPIC, TOPIC = "/camera/image_raw", "/stemseg/instances"


class ViewUsageError(StemsegError):
    """Options of the command that contradict each other."""


BagArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[BAG]",
        help="ROS 2 bag with images and instances; without one, a running node is shown.",
    ),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Bag of the instances.", show_default="the same bag"),
]
AnswersOption = Annotated[Path | None, typer.Option(hidden=True)]
ImageTopicOption = Annotated[
    str | None,
    typer.Option(
        help="Topic of the images.", show_default=f"the bag's only one; live: {IMAGE_TOPIC}"
    ),
]
InstancesTopicOption = Annotated[
    str | None,
    typer.Option(
        help="Topic of the instances.", show_default=f"the bag's only one; live: {TOPIC}"
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(help="Write this .rrd file instead of serving a page; 'rerun FILE' opens it."),
]
BindOption = Annotated[
    str,
    typer.Option(
        help="IP address that page and data listen on: 127.0.0.1 serves this machine alone, "
        "0.0.0.0 everybody who reaches it, without a password."
    ),
]
PortOption = Annotated[
    int,
    typer.Option(min=1024, max=65534, help="Port of the page; the next one serves its data."),
]
HostOption = Annotated[str, typer.Option(help="Name under which browsers reach this machine.")]
OpenOption = Annotated[bool, typer.Option(help="Open the page in a browser.")]


def view(
    bag: BagArgument = None,
    results: ResultsOption = None,
    answers: AnswersOption = None,
    image_topic: ImageTopicOption = None,
    topic: InstancesTopicOption = None,
    save: SaveOption = None,
    bind: BindOption = "127.0.0.1",
    port: PortOption = 9090,
    host: HostOption = "localhost",
    open: OpenOption = True,
) -> None:
    """Show masks, ids, trails, prompts and timings of a bag, or of a running node, in a browser.

    The page and its program come from this machine; the server sends no usage statistics. The
    browser asks fonts.googleapis.com and fonts.gstatic.com for the font of the page, which works
    without it. What the page itself may send to rerun.io from the browser is switched off in its
    menu, under Settings. A file of --save has no page: 'rerun FILE' shows it without a browser.
    """
    if answers is not None:
        typer.echo("stemseg: --answers is now called --results", err=True)
        results = results or answers
    if bag is None and results is not None:
        raise ViewUsageError("--results needs a bag of images: stemseg view BAG --results BAG")
    if save is not None and save.suffix != ".rrd":
        raise ViewUsageError(f"--save {save}: expected a name that ends in .rrd")
    from stemseg_ros.replay.processes import termination_as_exit

    with needs_extra("view"):
        from stemseg_ros.view.recording import Recording

    def start(recording: Recording) -> None:
        if save is not None:
            recording.save(save)
        else:
            typer.echo(recording.serve(port, host, bind=bind, open_browser=open))

    with (
        termination_as_exit(),
        Recording(bag.stem if bag else "live", follow=bag is None) as recording,
    ):
        if bag is None:
            _show_live(recording, start, image_topic or IMAGE_TOPIC, topic or TOPIC)
        else:
            from stemseg_ros.view.bag_frames import BagFrames

            with BagFrames(bag, image_topic, results, topic) as frames:
                start(recording)
                _show_bag(recording, frames)
            if save is None:
                typer.echo("Ctrl-C ends the page")
                _until_interrupted()
    if save is not None:
        typer.echo(f"{save}: {recording.frames} frames")


def _show_live(
    recording: Recording, start: Callable[[Recording], None], image_topic: str, topic: str
) -> None:
    from stemseg_ros.replay.session import check_ros

    check_ros()
    from stemseg_ros.ros.programs.viewer import run

    start(recording)
    run(recording, image_topic, topic)


def _show_bag(recording: Recording, frames: BagFrames) -> None:
    from stemseg_ros.cli.console import frames_progress

    with frames_progress("view", frames.frames) as progress:
        for frame in frames:
            recording.show(frame)
            progress(recording.frames)
    if frames.without_result or frames.missing:
        typer.echo(
            f"stemseg: {frames.without_result} images without a result are not shown; "
            f"{frames.missing} results have no image in the bag",
            err=True,
        )
    if frames.prompts_without_result:
        typer.echo(
            f"stemseg: {frames.prompts_without_result} given objects are not shown, as the bag "
            "has no result of their frames",
            err=True,
        )
    for reason in recording.left_out():
        typer.echo(f"stemseg: {reason}", err=True)


def _until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
