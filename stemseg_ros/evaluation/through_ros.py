"""Sequences through the real node: images are played over DDS, the published results are
scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from stemseg_ros.config import dump_config
from stemseg_ros.evaluation.bag_stamps import NO_FRAME, frames_of, read_stamps
from stemseg_ros.evaluation.inputs import Images, read_bag
from stemseg_ros.evaluation.lost_frames import LostFrames
from stemseg_ros.evaluation.runs import Setup, StoredRun, sequence_length, store
from stemseg_ros.media.bags import IMAGE_TYPES, INSTANCE_ARRAY, write_bag
from stemseg_ros.media.sources import numbered_frames
from stemseg_ros.records import Image
from stemseg_ros.replay import session
from stemseg_ros.replay.node_counts import unusable
from stemseg_ros.replay.processes import termination_as_exit

BAG, CONFIG = "images.mcap", "config.yaml"
RATE = 1000.0
"""Times the recorded rate: only the wait for the node's results limits the player."""


def replay_sequence(
    setup: Setup,
    name: str,
    images: Images,
    out: Path,
    progress: Callable[[int], None] = lambda frames: None,
) -> StoredRun:
    """As runs.run_sequence, through the node, with its files in ``out/NAME.ros``.

    Raises ReplayError, EvaluationError, MediaError.
    """
    session.check_ros()
    folder = out / f"{name}.ros"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (BAG, *session.FILES):
        (folder / file).unlink(missing_ok=True)
    (folder / CONFIG).write_text(dump_config(setup.config), encoding="utf-8")
    arguments = session.node_arguments(
        setup.config, str(folder / CONFIG), setup.checkpoint, setup.device
    )

    def show(step: str, done: int, total: int | None) -> None:
        if step == session.FINISHED:
            progress(done)

    sent, lost = _write_images(images, folder / BAG)
    with termination_as_exit():
        session.play_through_node(
            folder / BAG, len(sent), setup.config.latency.in_flight, arguments, folder, show, RATE
        )
    run = _collect(setup, name, images, sent, lost, folder, out)
    (folder / BAG).unlink()  # as large as all images together
    return run


def _write_images(images: Images, bag: Path) -> tuple[list[int], LostFrames]:
    """Write the images that can be read to a bag; return their frames, and what is lost."""
    sent: list[int] = []
    with images.open() as source:

        def readable() -> Iterator[tuple[int, Image]]:
            for position, stamp_ns, image in numbered_frames(source):
                if (frame := images.frame(position)) != NO_FRAME:
                    sent.append(frame)
                    yield stamp_ns, image

        write_bag(readable(), bag, topic=session.IMAGE_TOPIC)
        return sent, images.lost(source.damage)


def _collect(
    setup: Setup,
    name: str,
    images: Images,
    sent: list[int],
    lost: LostFrames,
    folder: Path,
    out: Path,
) -> StoredRun:
    """Store the recorded results as a run. sent: frames of the images."""
    results = folder / session.INSTANCES
    times = session.times(folder)  # which has checked that results lack bad stamps alone
    counts = unusable(session.diagnostics(folder))
    found = read_stamps(results, (INSTANCE_ARRAY,), None)
    answered = frames_of(
        read_stamps(folder / BAG, IMAGE_TYPES, None),
        found._replace(losses=list(counts)),
        f"sequence {name}, see {folder}: results",
    )
    frames = [sent[index] for index in answered] if answered else sent
    result = read_bag(results, None)
    refused = counts.get("frames_refused", 0)
    losses = [f"the node refused {refused} frame{'s' * (refused != 1)}"] if refused else []
    lost = replace(lost, dropped=_dropped(counts), losses=[*lost.losses, *losses])
    classes = dict(enumerate(setup.config.classes, start=1))
    run = StoredRun(
        setup.fingerprint(name, images),
        sequence_length(images, len(frames), lost),
        lost,
        result.size,
        classes,
        dict(result.scores),
        round(times.seconds, 4),
        None,
        [round(ms, 2) for ms in times.latency_ms],
    )
    return store(out, run, name, (replace(row, frame=frames[row.frame]) for row in result.rows))


def _dropped(counts: Mapping[str, int]) -> dict[str, int]:
    """Frames without a result because of their stamps, as a run without ROS counts them."""
    by_reason = {
        "duplicate": counts.get("frames_duplicate", 0),
        "out_of_order": counts.get("frames_out_of_order", 0) + counts.get("frames_held", 0),
    }
    return {reason: number for reason, number in by_reason.items() if number}
