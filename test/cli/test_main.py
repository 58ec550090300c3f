"""The commands end to end on tiny inputs, and what they say about every mistake: one line, exit
code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stemseg_ros import __version__
from stemseg_ros.cli.main import app
from stemseg_ros.errors import MediaError
from stemseg_ros.formats import kitti_lines
from stemseg_ros.formats.kitti_lines import read_results
from stemseg_ros.labelling import job
from stemseg_ros.media.overlay import VideoWriter
from stemseg_ros.media.sources import Video

TINY = """
input: {min_dim: 96, max_dim: 192}
network: {backbone: mobilenet_v2, fpn_channels: 8, decoder_channels: [8, 8, 8, 8], norm_groups: 4}
window: {length: 4, overlap: 2}
clustering: {min_heat: 0.2}
"""


def stemseg(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.yaml, a video, a folder of images, a bag, and broken things."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "tiny.yaml").write_text(TINY)
    images = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(7)]
    with VideoWriter(folder / "drive.mp4", 25) as video:
        for image in images:
            video.write(image)
    (folder / "images").mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
    (folder / "empty").mkdir()
    (folder / "bad.mp4").write_text("no video")
    (folder / "broken.yaml").write_text("window: [")
    made = stemseg(
        "bag", "from-frames", folder / "images", folder / "bag", "--fps", 5, "--topic", "/cam"
    )
    assert made.exit_code == 0, made.output
    return folder


@pytest.mark.parametrize(
    "source, options",
    [
        ("drive.mp4", []),
        ("images", ["--fps", "5"]),
        ("images/*.png", []),
        ("bag", ["--topic", "/cam"]),
        ("bag", []),
    ],
    ids=["video", "folder", "pattern", "bag", "bag with one topic"],
)
def test_run(files: Path, tmp_path: Path, source: str, options: list[str]) -> None:
    result = stemseg(
        "run",
        files / source,
        "--config",
        files / "tiny.yaml",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
        *options,
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (
        summary["frames"] == 7
        and summary["config"] == "tiny"
        and summary["checkpoint"] == "random"
    )
    assert set(summary["stage_ms"]) == {"encode", "decode", "track"}
    video = Video(tmp_path / "out" / "overlay.mp4")
    assert len(list(video)) == 7
    assert video.fps == (25 if source == "drive.mp4" else 10 if source == "images/*.png" else 5)
    ids = {row.id for row in read_results(tmp_path / "out" / "instances.txt")}
    assert len(ids) == summary["tracks"] == len(summary["track_list"])
    assert "7 / " in result.stdout and "instances.txt" in result.stdout


def test_set_changes_a_setting(files: Path, tmp_path: Path) -> None:
    result = stemseg(
        "run",
        files / "drive.mp4",
        "--config",
        files / "tiny.yaml",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        "--out",
        tmp_path,
        "--set",
        "output.min_area=1000000",
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "instances.txt").read_text() == ""


def test_tracks_that_the_text_cannot_hold_are_reported(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kitti_lines, "MAX_TRACKS", 0)
    result = stemseg(
        "run",
        files / "drive.mp4",
        "--config",
        files / "tiny.yaml",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        "--out",
        tmp_path,
    )
    tracks = json.loads((tmp_path / "summary.json").read_text())["tracks"]
    assert result.exit_code == 0 and tracks > 0
    assert f"holds the 0 largest of {tracks} tracks" in result.stderr


def test_a_video_that_ends_early_is_reported(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = Video.__init__

    def more(self: Video, path: Path, fps: float | None = None) -> None:
        announced(self, path, fps)
        self.frames = 9

    monkeypatch.setattr(Video, "__init__", more)
    result = stemseg(
        "run",
        files / "drive.mp4",
        "--config",
        files / "tiny.yaml",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        "--out",
        tmp_path,
    )
    assert result.exit_code == 0
    (loss,) = json.loads((tmp_path / "summary.json").read_text())["losses"]
    assert "announces 9 frames, 7 came" in loss


@pytest.mark.parametrize("options, exit_code", [([], 0), (["--strict"], 3)])
def test_a_bad_frame_costs_itself_alone(
    files: Path, tmp_path: Path, options: list[str], exit_code: int
) -> None:
    shutil.copytree(files / "images", tmp_path / "images")
    (tmp_path / "images" / "2.png").write_bytes(b"\x89PNG")
    common = ["--config", files / "tiny.yaml", "--checkpoint", "random", "--device", "cpu"]
    out = tmp_path / "out"
    result = stemseg("run", tmp_path / "images", *common, "--out", out, *options)
    assert result.exit_code == exit_code, result.output
    assert "stemseg: frame 2 is skipped: " in result.stderr and "2.png" in result.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == 6 and [item["frame"] for item in summary["skipped"]] == [2]
    numbers = {row.frame for row in read_results(out / "instances.txt")}
    assert numbers and 2 not in numbers and 6 in numbers
    assert {file.name for file in out.iterdir()} == {
        "summary.json",
        "instances.txt",
        "overlay.mp4",
    }


def test_a_run_that_fails_leaves_the_files_of_the_one_before(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--config", files / "tiny.yaml", "--checkpoint", "random", "--device", "cpu"]
    assert stemseg("run", files / "images", *common, "--out", tmp_path).exit_code == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise MediaError("cannot write: No space left on device")

    monkeypatch.setattr(job, "write_results", full)
    result = stemseg("run", files / "drive.mp4", *common, "--out", tmp_path)
    assert result.exit_code == 2 and "No space left" in result.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_bench(files: Path, tmp_path: Path) -> None:
    result = stemseg(
        "bench",
        "--config",
        files / "tiny.yaml",
        "--device",
        "cpu",
        "--size",
        "64x48",
        "--length",
        2,
        "--overlap",
        1,
        "--frames",
        3,
        "--warmup",
        1,
        "--json",
        tmp_path / "bench.json",
        "--set",
        "clustering.min_heat=0.3",
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["traits"]["window"] == "near_online 2/1"
    assert (report["size"], report["frames"]) == ([64, 48], 3)
    assert list(report["stages"]) == [
        "encode",
        "decode",
        "track",
        "end_to_end",
    ]
    times = {stage: value["median_ms"] for stage, value in report["stages"].items()}
    assert 0 < times["encode"] < times["end_to_end"]
    assert "end_to_end" in result.stdout and "peak memory" in result.stdout


def test_bag_from_video_keeps_the_stamps(files: Path, tmp_path: Path) -> None:
    made = stemseg(
        "bag",
        "from-video",
        files / "drive.mp4",
        tmp_path / "bag",
        "--encoding",
        "jpeg",
        "--storage",
        "sqlite3",
    )
    assert made.exit_code == 0 and "7 frames" in made.stdout, made.output
    info = stemseg("bag", "info", tmp_path / "bag")
    assert info.exit_code == 0
    assert "sqlite3, 7 messages, 0.24 s" in info.stdout
    assert "/camera/image_raw" in info.stdout and "CompressedImage" in info.stdout


def run_on(source: str, *more: str) -> tuple[str, ...]:
    return (
        "run",
        source,
        "--out",
        "{out}",
        "--config",
        "{files}/tiny.yaml",
        "--checkpoint",
        "random",
        "--device",
        "cpu",
        *more,
    )


def run(*more: str) -> tuple[str, ...]:
    return run_on("{files}/drive.mp4", *more)


MISTAKES: list[tuple[tuple[str, ...], list[str]]] = [
    (run_on("{files}/none.mp4"), ["no such file or folder", "none.mp4"]),
    (run_on("{files}/bad.mp4"), ["bad.mp4", "not readable as a video"]),
    (run_on("{files}/empty"), ["no images in this folder", "empty"]),
    (run_on("{files}/tiny.yaml"), ["unknown type '.yaml'", "expected a video"]),
    (
        run_on("{files}/bag", "--topic", "/car"),
        ["no topic named '/car'", "/cam (sensor_msgs/msg/Image"],
    ),
    (run_on("{files}/bag", "--fps", "5"), ["is a bag, whose frames have stamps already"]),
    (run_on("{files}/images", "--fps", "0"), ["frame rate must be above 0"]),
    (run("--topic", "/cam"), ["is no ROS 2 bag, so it has no topic '/cam'"]),
    (
        run("--set", "window.overlpa=2"),
        ["unknown setting 'window.overlpa'; did you mean 'window.overlap'?"],
    ),
    (run("--set", "window.overlap"), ["--set window.overlap: expected KEY=VALUE"]),
    (
        run("--set", "window.overlap=["),
        ["--set window.overlap=[", "cannot be read as a YAML value"],
    ),
    (run("--set", "window.overlap=many"), ["window.overlap", "valid integer", "'many'"]),
    (run("--set", "window.overlap=4"), ["overlap 4 is not below length 4"]),
    (
        run("--config", "kiti_mots"),
        ["no preset and no file named 'kiti_mots'; did you mean 'kitti_mots'?"],
    ),
    (run("--config", "{files}/broken.yaml"), ["broken.yaml: not readable as YAML"]),
    (run("--device", "gpu"), ["unknown device 'gpu'", "auto, cpu, cuda"]),
    (run("--device", "cuda"), ["no CUDA device for 'cuda': there is none"]),
    (run("--checkpoint", "{files}/none.pth"), ["none.pth' does not exist"]),
    (run("--checkpoint", "{files}/tiny.yaml"), ["tiny.yaml"]),
    (run("--out", "{files}/tiny.yaml/out"), ["cannot write to the folder", "tiny.yaml/out"]),
    (("bench", "--size", "12by4"), ["--size 12by4: expected WIDTHxHEIGHT"]),
    (("bench", "--size", "8x8"), ["--size 8x8: expected WIDTHxHEIGHT, 16 to 16384"]),
    (("bench", "--length", "5"), ["window.length", "5"]),
    (("bench", "--precision", "int3"), ["runtime.precision", "'int3'"]),
    (("bench", "--config", "davsi"), ["did you mean 'davis'?"]),
    (("bag", "info", "{files}/none"), ["none"]),
    (("bag", "info", "{files}/images"), ["images"]),
    (("bag", "from-video", "{files}/images", "{out}"), ["images is a folder, not a video"]),
    (("bag", "from-video", "{files}/none.mp4", "{out}"), ["no such file or folder", "none.mp4"]),
    (("bag", "from-frames", "{files}/empty", "{out}"), ["no images in this folder"]),
    (("bag", "from-frames", "{files}/none", "{out}"), ["no such folder"]),
    (("bag", "from-frames", "{files}/images", "{files}/bag"), ["bag' exists already"]),
    (("train", "{files}/none", "--out", "{out}"), ["none"]),
]


@pytest.mark.parametrize("arguments, words", MISTAKES, ids=[words[0] for _, words in MISTAKES])
def test_mistakes_end_in_one_line_and_code_2(
    files: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = stemseg(
        *(
            text.replace("{files}", str(files)).replace("{out}", str(tmp_path / "out"))
            for text in arguments
        )
    )
    assert result.exit_code == 2, result.output
    messages = [line for line in result.stderr.splitlines() if line.startswith("stemseg: ")]
    assert len(messages) == 1, result.output
    assert all(word in messages[0] for word in words), messages[0]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("run",), "Missing argument 'INPUT'"),
        (("fly",), "No such command 'fly'"),
        (("bench", "--frames", "0"), "'--frames'"),
        (("bag", "from-frames", "a", "b", "--encoding", "gif"), "'gif'"),
    ],
)
def test_wrong_usage_has_code_2(arguments: tuple[str, ...], words: str) -> None:
    result = stemseg(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_version() -> None:
    assert stemseg("--version").stdout == f"stemseg {__version__}\n"


def test_help_is_quick_because_torch_stays_out() -> None:
    code = (
        "import sys\nfrom stemseg_ros.cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(set(sys.modules) & {'torch', 'cv2', 'av', 'numpy', 'rosbags', 'pydantic'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(command in done.stdout for command in ("demo", "run", "bench", "train", "bag"))
