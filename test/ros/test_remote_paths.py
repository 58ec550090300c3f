"""What a parameter client may tell the node to read from disk: nothing, unless settings allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros.harness import Peer, toy_node

from stemseg_ros.ros.parameters import ParameterError, check_checkpoint

pytestmark = pytest.mark.ros


def set_string(peer: Peer, name: str, text: object) -> Any:
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(text))
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
    return peer.call(SetParameters, "stemseg/set_parameters", request).results[0]


def change(peer: Peer, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(peer.call(ChangeState, "stemseg/change_state", request).success)


def worker(peer: Peer) -> dict[str, str]:
    """What the next diagnostics say of the worker."""
    seen: list[DiagnosticArray] = []
    subscription = peer.subscribe(DiagnosticArray, "/diagnostics", seen)
    assert peer.spin_until(lambda: seen)
    peer.node.destroy_subscription(subscription)
    (status,) = [s for s in seen[-1].status if s.name == "/stemseg: worker"]
    return {item.key: item.value for item in status.values}


def test_paths_are_refused(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"")
    with toy_node("node.image_transport:=raw"):
        peer.connect()
        for name in ("checkpoint", "config"):
            result = set_string(peer, name, file)
            assert not result.successful
            assert "read-only" in result.reason, name


def test_a_checkpoint_of_an_allowed_folder_is_loaded_at_the_next_configuration(
    peer: Peer, tmp_path: Path
) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    for folder in (allowed, outside):
        folder.mkdir()
        (folder / "weights.pth").write_bytes(b"")
    with toy_node(f"node.remote_checkpoints:=['{allowed}']") as node:
        peer.connect()
        for refused in (outside / "weights.pth", "random", allowed, allowed / "missing.pth"):
            result = set_string(peer, "checkpoint", refused)
            assert not result.successful
            assert f"'{refused}' is refused" in result.reason
        assert "read-only" in set_string(peer, "config", allowed / "weights.pth").reason
        assert "read-only" in set_string(peer, "node.remote_checkpoints", "/").reason
        assert set_string(peer, "checkpoint", allowed / "weights.pth").successful
        assert worker(peer)["checkpoint"] != str(allowed / "weights.pth")
        steps = (
            Transition.TRANSITION_DEACTIVATE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_CONFIGURE,
        )
        assert all(change(peer, step) for step in steps), node.log
        assert worker(peer)["checkpoint"] == str(allowed / "weights.pth")


@pytest.mark.parametrize(
    ("path", "fine"),
    [
        ("", True),  # the weights of the preset
        ("{allowed}/a.pth", True),
        ("{allowed}/deep/b.pth", True),
        ("{allowed}/../outside.pth", False),
        ("{allowed}/link.pth", False),
        ("{allowed}", False),
        ("{allowed}/none.pth", False),
        ("{allowed}x/a.pth", False),
        ("random", False),
        ("a.pth", False),
    ],
)
def test_files_of_allowed_folders(tmp_path: Path, path: str, fine: bool) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "deep").mkdir(parents=True)
    (tmp_path / "allowedx").mkdir()
    for name in ("allowed/a.pth", "allowed/deep/b.pth", "allowedx/a.pth", "outside.pth"):
        (tmp_path / name).write_bytes(b"")
    (allowed / "link.pth").symlink_to(tmp_path / "outside.pth")
    if fine:
        check_checkpoint(path.format(allowed=allowed), [str(allowed)])
    else:
        with pytest.raises(ParameterError, match="is refused: it must be a file in"):
            check_checkpoint(path.format(allowed=allowed), [str(allowed)])
