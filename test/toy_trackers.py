"""Toy trackers for images of one row, drawn as text: a scripted detector, and a follower that
recognises objects by their letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from stemseg_ros.config import Config
from stemseg_ros.errors import PromptError
from stemseg_ros.masks import decode
from stemseg_ros.records import Frame, FrameResult, Image, Instance, Prompt
from stemseg_ros.tracker import Call, Latency, Step, Tracker

NOTHING = "."
SCORE = 0.8
"""Score of every instance of the detector."""
CERTAINTY = 0.5
"""Score of every instance of the follower."""


def draw(row: str) -> Image:
    """Convert a row to an image (1, W, 3) whose pixels are its characters."""
    codes = np.frombuffer(row.encode(), np.uint8)
    return np.repeat(codes[None, :, None], 3, 2)


def instances(row: str, classes: Mapping[int, int], score: float) -> tuple[Instance, ...]:
    """Build the instances of a row of digits, which are their ids; the default class is 1."""
    pixels = np.array([list(row)])
    return tuple(
        Instance.from_mask(pixels == name, int(name), classes.get(int(name), 1), "thing", score)
        for name in sorted(set(row) - {NOTHING})
    )


def show(result: FrameResult) -> str:
    """Convert a result back to a row of digits; fails if masks overlap."""
    row = np.full(result.width, NOTHING)
    for one in result.instances:
        mask = decode(one.rle)[0]
        assert (row[mask] == NOTHING).all()
        row[mask] = str(one.track_id)
    return "".join(row)


def make_call(name: str) -> Call:
    """Make a call of a function named ``name``."""
    return Call(name, (torch.zeros(1),))


class ScriptedDetector:
    """Detector that reports the rows of a script; results come ``delay`` frames late."""

    def __init__(
        self, script: Sequence[str], delay: int = 0, classes: Mapping[int, int] | None = None
    ) -> None:
        self._script = script
        self._classes = classes or {}
        self._pushed = self._returned = 0
        self.latency = Latency(delay, delay + 1, delay + 1, delay + 1)

    def step(self, frame: Frame) -> Step:
        yield make_call("look")
        self._pushed += 1
        if self._pushed % self.latency.frames_per_pass:
            return []
        return self._results()

    def finish(self) -> Step:
        yield from ()
        return self._results()

    def update(self, config: Config) -> None:
        raise NotImplementedError  # its settings never change

    def _results(self) -> list[FrameResult]:
        rows = self._script[self._returned : self._pushed]
        results = [
            FrameResult(t, 10 * t, 1, len(row), 0, instances(row, self._classes, SCORE))
            for t, row in enumerate(rows, self._returned)
        ]
        self._returned = self._pushed
        return results


class LetterFollower:
    """Follower of the letter that a prompt covers."""

    latency = Latency(0, 1, 1, 1)

    def __init__(self) -> None:
        self.letters: dict[int, int] = {}
        self.prompts: list[tuple[int, str]] = []
        """Frame and letter of every prompt."""
        self._last: Frame | None = None
        self.updated: list[Config] = []

    @property
    def followed(self) -> tuple[int, ...]:
        return tuple(sorted(self.letters))

    def step(self, frame: Frame) -> Step:
        if self.letters:
            yield make_call("follow")
        self._last = frame
        found = []
        for track_id, letter in sorted(self.letters.items()):
            mask = frame.image[..., 0] == letter
            if mask.any():
                found.append(Instance.from_mask(mask, track_id, 1, "thing", CERTAINTY))
        return [FrameResult(0, frame.stamp_ns, 1, frame.image.shape[1], 0, tuple(found))]

    def finish(self) -> Step:
        raise NotImplementedError  # never called by BridgedTracker

    def update(self, config: Config) -> None:
        self.updated.append(config)

    def check(self, frame: Frame) -> None:
        raise NotImplementedError  # never called by BridgedTracker

    def track(self, stamp_ns: int, prompts: tuple[Prompt, ...]) -> Step:
        yield make_call("follow")
        image = self.kept_image(stamp_ns)[..., 0]
        for prompt in prompts:
            letter = int(np.median(image[decode(prompt.rle)]))
            self.letters[prompt.track_id] = letter
            self.prompts.append((stamp_ns, chr(letter)))
        return []

    def untrack(self, ids: Collection[int]) -> None:
        for track_id in ids:
            del self.letters[track_id]

    def kept_image(self, stamp_ns: int) -> Image:
        if self._last is None or self._last.stamp_ns != stamp_ns:
            raise PromptError("not kept")
        return self._last.image

    def free_ids(self, number: int) -> tuple[int, ...]:
        raise NotImplementedError  # never called by BridgedTracker


def run(
    tracker: Tracker, rows: Sequence[str], calls: list[str] | None = None
) -> list[FrameResult]:
    """Run a whole stream; returns its results. ``calls`` collects the names of the calls."""
    results = []
    steps = [tracker.step(Frame(draw(row), 10 * t)) for t, row in enumerate(rows)]
    for step in [*steps, tracker.finish()]:
        outputs = None
        try:
            while True:
                call = next(step) if outputs is None else step.send(outputs)
                if calls is not None:
                    calls.append(call.function)
                outputs = call.inputs
        except StopIteration as stop:
            results += stop.value
    return results
