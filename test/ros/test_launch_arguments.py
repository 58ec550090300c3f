"""A wrong launch argument is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemseg_ros.replay.processes import FAST_DDS_PROFILES
from stemseg_ros.ros.launch_arguments import (
    CAMERA_NAME,
    LaunchArgumentError,
    read_bool,
    read_cameras,
    read_count,
    read_file,
    read_number,
    read_positive,
    refuse_unknown,
    transport_profile,
)
from stemseg_ros.ros.settings import NodeConfig

FILE = Path(__file__).resolve().parents[2] / "launch" / "camera.launch.py"
DECLARED = ("image_topic", "autostart", "device")


@pytest.mark.parametrize("given", ["", *FAST_DDS_PROFILES])
def test_a_transport_profile_is_set_unless_the_user_has_one(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FAST_DDS_PROFILES:
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(given, "/own.xml")
        assert transport_profile() == {}
    else:
        ((name, file),) = transport_profile().items()
        assert name == FAST_DDS_PROFILES[0] and Path(file).name == "fastdds_shm.xml"


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (read_bool, "true", True),
        (read_bool, "Yes", True),
        (read_bool, "ON", True),
        (read_bool, "1", True),
        (read_bool, "False", False),
        (read_bool, "no", False),
        (read_bool, "off", False),
        (read_bool, "0", False),
        (read_number, "0", 0.0),
        (read_number, "1.5", 1.5),
        (read_positive, "1e-3", 0.001),
        (read_count, "12", 12),
        (read_file, str(FILE), str(FILE)),
    ],
)
def test_values(read: Callable[[str, str], Any], text: str, value: Any) -> None:
    assert read("name", text) == value
    assert type(read("name", text)) is type(value)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((read_bool, text) for text in ("", "maybe", "2", "truee")),
        *((read_number, text) for text in ("", "abc", "-1", "nan", "inf", "1,5")),
        *((read_positive, text) for text in ("0", "-1", "abc")),
        *((read_count, text) for text in ("", "1.0", "-1", "abc", "²")),
        *((read_file, text) for text in ("/nosuch.yaml", "", str(FILE.parent))),
    ],
)
def test_wrong_values_name_the_argument(read: Callable[[str, str], Any], text: str) -> None:
    with pytest.raises(LaunchArgumentError, match=rf"^rate: .*'{re.escape(text)}'"):
        read("rate", text)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["imagetopic:=/x"], "'imagetopic'; did you mean 'image_topic'"),
        (["device:=cpu", "auto_start:=true"], "'auto_start'; did you mean 'autostart'"),
        (["zzz:=1"], "'zzz'; there are autostart, device, image_topic"),
    ],
)
@pytest.mark.parametrize("named", [["stemseg", "camera.launch.py"], [str(FILE)]])
def test_unknown_arguments_are_refused(named: list[str], arguments: list[str], hint: str) -> None:
    with pytest.raises(LaunchArgumentError, match=f"unknown argument {hint}"):
        refuse_unknown(FILE, DECLARED, ["ros2", "launch", *named, *arguments])


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["stemseg", "camera.launch.py", "device:=a:=b"], id="known"),
        pytest.param(["stemseg", "replay.launch.py", "bag:=x"], id="another file of ours"),
        pytest.param(["robot", "camera.launch.py", "lidar:=x"], id="same name, other package"),
        pytest.param(["/robot/camera.launch.py", "lidar:=x"], id="same name, other path"),
    ],
)
def test_arguments_of_a_file_that_includes_ours_are_its_own(words: list[str]) -> None:
    refuse_unknown(FILE, DECLARED, ["ros2", "launch", *words])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no lines such as"),
        ("[front]", "holds no lines such as"),
        ("front: {image: /x}", "expected a name and a topic"),
        ("front: [", "cannot be read"),
        ("front-left: /x", "'front-left' cannot stand in the name of a topic"),
        ("1st: /x", "'1st' cannot stand"),
        ("front: ''", "expected a name and a topic"),
    ],
)
def test_a_wrong_file_of_cameras_is_explained(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(text)
    with pytest.raises(LaunchArgumentError, match=rf"^cameras: '.*cameras\.yaml'.*{reason}"):
        read_cameras("cameras", str(file))


def test_the_file_of_cameras_that_is_shipped() -> None:
    file = FILE.parents[1] / "config" / "cameras.yaml"
    assert read_cameras("cameras", str(file)) == {
        "front": "/front_camera/image_raw",
        "rear": "/rear_camera/image_raw",
    }


@pytest.mark.parametrize(
    "name", ["front", "front_left", "cam2", "a__b", "_a", "a_", "a-b", "2a", ""]
)
def test_cameras_are_named_as_the_node_takes_them(name: str) -> None:
    try:
        NodeConfig(cameras=(name,))
        taken = True
    except ValueError:
        taken = False
    assert bool(CAMERA_NAME.fullmatch(name)) == taken
