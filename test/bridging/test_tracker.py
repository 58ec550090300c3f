"""Bridging of gaps, as rows of text: the scene, the detector's instances, the published ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from toy_trackers import CERTAINTY, SCORE, LetterFollower, ScriptedDetector, run, show

from stemseg_ros.bridging.settings import FollowerConfig
from stemseg_ros.bridging.tracker import BridgedTracker
from stemseg_ros.config import load_config, update_config


def bridging(**settings: Any) -> FollowerConfig:
    overrides = {f"bridging.{name}": value for name, value in settings.items()}
    config = load_config(
        "hodor_lite", {"tracking": "own_tracks", "bridging.detector": "kitti_mots", **overrides}
    )
    assert isinstance(config, FollowerConfig)
    return config


@dataclass
class Case:
    """Frames as (scene, detected, published)."""

    frames: str
    settings: dict[str, Any] = field(default_factory=dict)
    classes: dict[int, int] = field(default_factory=dict)

    def columns(self) -> tuple[list[str], list[str], list[str]]:
        scene, detected, published = zip(
            *(line.split() for line in self.frames.strip().splitlines()), strict=True
        )
        return list(scene), list(detected), list(published)


CASES = {
    "a gap is bridged, and the new id of the detector continues the track": Case(
        """
        aaa...  111...  111...
        .aaa..  .111..  .111..
        ..aaa.  ......  ..111.
        ...aaa  ...222  ...111
        """
    ),
    "an id that changes without a gap is the same object": Case(
        """
        aaa...  111...  111...
        .aaa..  .111..  .111..
        ..aaa.  ..222.  ..111.
        """
    ),
    "an object that is out of sight is not reported, and keeps its id": Case(
        """
        aaa...  111...  111...
        .aaa..  .111..  .111..
        ......  ......  ......
        ......  ......  ......
        ..aaa.  ..222.  ..111.
        """
    ),
    "the detector recovers its track by itself": Case(
        """
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  ......  111...
        aaa...  111...  111...
        """
    ),
    "a track is given up after the longest gap": Case(
        """
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  ......  111...
        aaa...  ......  111...
        aaa...  ......  ......
        aaa...  222...  222...
        """,
        {"max_gap": 2},
    ),
    "a track can be recovered in the first frame after the longest gap": Case(
        """
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  ......  111...
        aaa...  ......  111...
        aaa...  222...  111...
        """,
        {"max_gap": 2},
    ),
    "a track of too few frames is not bridged": Case(
        """
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  ......  ......
        """,
        {"min_track_frames": 3},
    ),
    "a track of a low score is not bridged": Case(
        """
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  ......  ......
        """,
        {"min_score": SCORE + 0.01},
    ),
    "frames are counted across ids of the same track": Case(
        """
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  ......  111...
        aaa...  222...  111...
        aaa...  ......  111...
        """
    ),
    "another class is another object": Case(
        """
        aaa...  111...  111...
        aaa...  111...  111...
        aaa...  ......  111...
        aaa...  222...  222...
        """,
        classes={2: 2},
    ),
    "an object with too little overlap is another object": Case(
        """
        aaaa..  1111..  1111..
        aaaa..  1111..  1111..
        aaaa..  ......  1111..
        aaaa..  ...222  111222
        """,
        {"min_iou": 0.4},
    ),
    "a detected mask takes precedence over a bridged one": Case(
        """
        aaaa..  1111..  1111..
        aaaa..  1111..  1111..
        aaaab.  ...22.  11122.
        """
    ),
    "a bridged mask of which less than half is visible is not reported": Case(
        """
        aaaa..  1111..  1111..
        aaaa..  1111..  1111..
        aaaab.  .2222.  .2222.
        aaaab.  ....2.  11112.
        """,
        {"min_iou": 0.9},
    ),
    "a mask that spreads is rejected": Case(
        """
        aaa....  111....  111....
        aaa....  111....  111....
        aaaa...  .......  1111...
        aaaaaaa  .......  .......
        """
    ),
    "two gaps at a time": Case(
        """
        aa.bb.  11.22.  11.22.
        aa.bb.  11.22.  11.22.
        .aa.bb  ......  .11.22
        .aa.bb  .44.33  .11.22
        """
    ),
    "the number of bridged tracks is limited": Case(
        """
        aa.bb.  11.22.  11.22.
        aa.bb.  11.22.  11.22.
        aa.bb.  ......  11....
        aa.bb.  33.44.  11.33.
        """,
        {"max_objects": 1},
    ),
    "the old id of a track that continues under a new one is a new track": Case(
        """
        aa....  11....  11....
        aa....  11....  11....
        aa....  ......  11....
        aa....  22....  11....
        aa..bb  22..11  11..22
        """
    ),
    "ids are numbered without gaps in order of appearance": Case(
        """
        aa.bb.  77.99.  11.22.
        aabbcc  774499  113322
        """
    ),
}


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_gaps(name: str, delay: int) -> None:
    case = CASES[name]
    scene, detected, published = case.columns()
    config = bridging(**{"min_track_frames": 2, **case.settings})
    detector = ScriptedDetector(detected, delay, case.classes)
    results = run(BridgedTracker(detector, LetterFollower(), config), scene)
    assert [show(result) for result in results] == published
    assert [result.index for result in results] == list(range(len(scene)))


def test_score_of_a_bridged_instance_is_the_product_of_both_scores() -> None:
    tracker = BridgedTracker(
        ScriptedDetector(["11", "..", "11"]), LetterFollower(), bridging(min_track_frames=1)
    )
    results = run(tracker, ["aa"] * 3)
    assert [r.instances[0].score for r in results] == [SCORE, SCORE * CERTAINTY, SCORE]


def test_follower_is_prompted_with_the_last_mask_and_runs_only_while_a_track_is_lost() -> None:
    detected = ["11..", "11..", ".11.", "....", "....", "..22", "..22", "....", "...."]
    scene = ["aa..", "aa..", ".aa.", ".aa.", "..aa", "..aa", "..aa", "..aa", "..aa"]
    follower, calls = LetterFollower(), list[str]()
    run(BridgedTracker(ScriptedDetector(detected), follower, bridging()), scene, calls)
    assert follower.prompts == [(2, "a"), (6, "a")]
    follower_calls = [name for name in calls if name != "detector.look"]
    # One call for the prompt, then one for each frame up to the one that ends the gap.
    assert follower_calls == ["follow"] * (1 + 3) + ["follow"] * (1 + 2)
    assert calls.count("detector.look") == len(scene)


def test_latency_is_the_detectors() -> None:
    detector = ScriptedDetector([], delay=3)
    assert BridgedTracker(detector, LetterFollower(), bridging()).latency == detector.latency


def test_settings_reach_the_follower() -> None:
    config, follower = bridging(max_gap=5), LetterFollower()
    tracker = BridgedTracker(ScriptedDetector([]), follower, config)
    changed = update_config(config, {"bridging.max_gap": 7})
    tracker.update(changed)
    assert (tracker.config, follower.updated) == (changed, [changed])
