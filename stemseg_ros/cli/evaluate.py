"""The commands ``stemseg evaluate`` and ``stemseg convert``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemseg_ros.cli.options import (
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    SetOption,
    StrictOption,
    TopicOption,
    config_from,
)

if TYPE_CHECKING:
    from stemseg_ros.config import Config
    from stemseg_ros.evaluation.runs import Setup
    from stemseg_ros.evaluation.scoring import VariantReport


class FormatName(str, Enum):
    """Formats of ground truth and results."""

    kitti_mots = "kitti_mots"
    mots_challenge = "mots_challenge"
    davis = "davis"
    davis2016 = "davis2016"
    davis2016_semi = "davis2016_semi"
    davis2017_semi = "davis2017_semi"
    youtube_vis = "youtube_vis"
    youtube_vos = "youtube_vos"
    bdd100k = "bdd100k"


class Mode(str, Enum):
    """Window modes."""

    offline = "offline"
    near_online = "near_online"
    online = "online"


class PostFilter(str, Enum):
    """Whether the released post-filter is applied."""

    without = "without"
    only = "only"
    both = "both"


class LinkerName(str, Enum):
    """What gives masks their identities."""

    own = "own"
    of = "of"
    ri = "ri"
    stc = "stc"


FILTERS = {PostFilter.without: (False,), PostFilter.only: (True,), PostFilter.both: (False, True)}


GroundTruthOption = Annotated[
    Path,
    typer.Option(
        help="The benchmark's ground truth, or a ROS 2 bag with /ground_truth/instances."
    ),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        help="Score these stored results (of the same format) instead of running the network."
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with a folder of images per sequence.",
        show_default="beside the ground truth",
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder for report.html, report.json and results.")]
FormatOption = Annotated[FormatName, typer.Option(help="Format of a ground truth that is no bag.")]
ModeOption = Annotated[
    list[Mode] | None,
    typer.Option(
        help="offline is the paper's protocol; may be repeated.",
        show_default="that of the config",
    ),
]
PostFilterOption = Annotated[
    PostFilter,
    typer.Option(
        help="Score without, only with, or both with and without the released post-filter.",
    ),
]
LinkerOption = Annotated[
    list[LinkerName] | None,
    typer.Option(
        help="own: identities as they are. of: by optical flow. ri, stc: by the embeddings of "
        "--config stc_lite. May be repeated.",
        show_default="own",
    ),
]
PixelScoresOption = Annotated[
    bool,
    typer.Option(
        "--pixel-scores",
        help="Score tracks by their pixels, as the released code does for YouTube-VIS.",
    ),
]
ThroughRosOption = Annotated[
    bool, typer.Option("--through-ros", help="Send the images through the real ROS 2 node.")
]
SequenceOption = Annotated[
    list[str] | None,
    typer.Option(help="Evaluate this sequence; may be repeated.", show_default="all"),
]
JobsOption = Annotated[int, typer.Option(min=1, help="Processes that work in parallel.")]


def evaluate(
    ground_truth: GroundTruthOption,
    results: ResultsOption = None,
    images: ImagesOption = None,
    out: OutOption = Path("out/evaluation"),
    format: FormatOption = (FormatName.kitti_mots),
    mode: ModeOption = None,
    post_filter: PostFilterOption = PostFilter.both,
    linker: LinkerOption = None,
    pixel_scores: PixelScoresOption = False,
    through_ros: ThroughRosOption = False,
    sequence: SequenceOption = None,
    jobs: JobsOption = 1,
    config: ConfigOption = "lite",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    topic: TopicOption = None,
    settings: SetOption = None,
    strict: StrictOption = False,
) -> None:
    """Score results against ground truth: run the pipeline on the images, or take stored results.

    The same command resumes a run that was stopped.
    """
    from stemseg_ros.errors import needs_extra
    from stemseg_ros.labelling.job import write_json
    from stemseg_ros.media.outputs import appear_together, output_folder

    tree = config_from(config, settings)
    with needs_extra("eval"):
        from stemseg_ros.evaluation import scoring
        from stemseg_ros.evaluation.inputs import read_input
        from stemseg_ros.evaluation.relinking import Relinker, as_given
        from stemseg_ros.evaluation.report.content import lost_lines, summarise, to_json
        from stemseg_ros.evaluation.report.page import write_page
        from stemseg_ros.evaluation.runs import stored_masks
        from stemseg_ros.evaluation.variants import STORED, LinkingVariant
        from stemseg_ros.formats.sequence_masks import EvaluationError
    given = read_input(ground_truth, format.value, images, sequence or (), topic)
    if pixel_scores and given.format != "youtube_vis":
        raise EvaluationError(
            f"--pixel-scores: the measures of {given.format} take no scores of tracks, only those "
            "of --format youtube_vis do; leave it out"
        )
    sources = [STORED] if results else [m.value for m in mode or ()] or [tree.mode]
    wanted = [
        LinkingVariant(source, filtered, pixel_scores, through_ros and results is None, link.value)
        for source in sources
        for link in linker or [LinkerName.own]
        for filtered in scoring.possible_filters(FILTERS[post_filter], given)
    ]
    with output_folder(out):
        setup = _setup(tree, checkpoint, device, jobs)
        relinker = Relinker(given, setup)
        if results is not None:
            stored = scoring.read_stored(given, ground_truth, results, tree.stream.max_gap)
            variants = scoring.evaluate_stored(given, stored, wanted, jobs, _bar, relinker)
            masks = {name: partial(as_given, result) for name, result in stored.masks.items()}
        else:
            variants = scoring.evaluate_runs(given, setup, wanted, out, jobs, _bar, relinker)
            folder = scoring.results_folder(out, wanted[0])
            masks = {name: partial(stored_masks, folder, name) for name in given.truths}
        shown = relinker.masks(wanted[0], masks)
        report = summarise(given, ground_truth, variants, None if results else setup)
        with appear_together(out, last="report.json") as fresh:
            write_json(fresh / "report.json", to_json(report))
            write_page(fresh / "report.html", report, given, lambda name: shown[name]())
    _print(variants)
    typer.echo(f"{out}: report.html, report.json")
    lost = lost_lines(variants)
    for line in lost:
        typer.echo(f"stemseg: {line}", err=True)
    if strict and lost:
        raise typer.Exit(3)


def convert(
    bag: Annotated[Path, typer.Argument(help="A ROS 2 bag with recorded results of the node.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to write to; for youtube_vis the JSON file.",
            show_default="out/converted, for youtube_vis out/converted.json",
        ),
    ] = None,
    format: Annotated[
        FormatName, typer.Option(help="Format of the results.")
    ] = FormatName.kitti_mots,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the sequence.",
            show_default="that of the bag, or the only one of the ground truth",
        ),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="The benchmark's ground truth, of the same format: video and category ids and "
            "names of frames are taken from it. Without it videos count from 1, categories are "
            "those of the node, and files of frames are named 00000, 00001, ..."
        ),
    ] = None,
    topic: Annotated[str, typer.Option(help="Topic of the results.")] = "/stemseg/instances",
) -> None:
    """Write the recorded results of a bag in a benchmark's format."""
    from stemseg_ros.evaluation.truth_bag import convert_bag

    if out is None:
        single = format is FormatName.youtube_vis
        out = Path("out") / ("converted.json" if single else "converted")
    result = convert_bag(bag, topic, format.value, out, name, ground_truth)
    typer.echo(f"{out}: {result.frames} frames, {len(result.by_track())} tracks")


def _setup(tree: Config, checkpoint: str | None, device: str, jobs: int) -> Setup:
    import os

    from stemseg_ros.evaluation.runs import Setup
    from stemseg_ros.execution.device import resolve_device

    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    return Setup(tree, checkpoint, str(resolve_device(device)), threads)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from stemseg_ros.cli.console import frames_progress

    with frames_progress(title, total) as done:
        yield done


def _print(variants: list[VariantReport]) -> None:
    """The measures that fit a line; the reports have all."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from stemseg_ros.evaluation.measures import COUNTS

    console = Console()
    for variant in variants:
        measured = next(iter(variant.measures.values()), {})
        if not measured:
            console.print(
                f"{variant.variant.name}: the ground truth holds no object, so there are no "
                "measures",
                soft_wrap=True,
            )
            continue
        names = [name for name in measured if name not in COUNTS or name == "IDS"]
        table = Table(
            "percent",
            *names,
            title=f"{variant.variant.name}, sequences: {len(variant.sequences)}",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for column in table.columns:
            column.no_wrap = True
        for label, measures in variant.measures.items():
            table.add_row(
                label,
                *(
                    f"{measures[name]:.0f}" if name in COUNTS else f"{measures[name]:.1f}"
                    for name in names
                ),
            )
        console.print(table)
        if (timing := variant.timing) is not None:
            paper = timing.fps_network_and_clustering
            alone = f", network and clustering alone {paper:.2f}" if paper else ""
            console.print(
                f"frames/s end to end {timing.fps_end_to_end:.2f}{alone}; "
                f"latency median {timing.latency_ms['median']:.0f} ms",
                soft_wrap=True,
            )
