"""The SROS 2 policies against what a running node really has in the graph."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from lifecycle_msgs.srv import GetState
from ros.harness import PATIENCE, Peer, process, ros_arguments

pytestmark = pytest.mark.ros

SECURITY = Path(__file__).resolve().parents[2] / "config" / "security"
Rights = dict[str, set[str]]
"""publish, subscribe, reply -> full names."""


def allowed(file: str) -> Rights:
    """What a policy allows the node /stemseg."""
    root = ElementTree.parse(SECURITY / file).getroot()
    (profile,) = root.iter("profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", "stemseg")
    rights: Rights = {"publish": set(), "subscribe": set(), "reply": set()}
    for block in profile:
        ((right, qualifier),) = block.attrib.items()
        assert qualifier == "ALLOW"
        for item in block:
            assert item.text is not None
            rights[right].add(item.text.replace("~/", "/stemseg/"))
    return rights


def used(peer: Peer, expected: Rights, *arguments: str) -> Rights:
    """What the node has once it is active, and at least ``expected`` is known of it. With
    sensor_data it subscribes without a publisher."""
    parameters = ros_arguments("qos.image:=sensor_data", "use_sim_time:=true")
    with process("toy_node.py", *parameters, *arguments) as child:
        child.wait_for_log("is ready")
        state = GetState.Request()
        assert peer.spin_until(
            lambda: peer.call(GetState, "stemseg/get_state", state).current_state.label == "active"
        )
        # The graph arrives piece by piece.
        assert peer.spin_until(
            lambda: all(expected[right] <= names for right, names in graph(peer).items()),
            PATIENCE / 3,
        ), graph(peer)
        peer.spin_for(1.0)
        return graph(peer)


def graph(peer: Peer) -> Rights:
    """What the peer knows of the node; nothing before it has heard of it."""
    node, name = peer.node, ("stemseg", "/")
    if name not in node.get_node_names_and_namespaces():
        return {"publish": set(), "subscribe": set(), "reply": set()}
    return {
        "publish": {topic for topic, _ in node.get_publisher_names_and_types_by_node(*name)},
        "subscribe": {topic for topic, _ in node.get_subscriber_names_and_types_by_node(*name)},
        "reply": {topic for topic, _ in node.get_service_names_and_types_by_node(*name)},
    }


ONE = ["-r", "image:=/camera/image_raw"]
TWO = ["-r", "front/image:=/front_camera/image_raw", "-r", "rear/image:=/rear_camera/image_raw"]
OPTIONAL = set() if importlib.util.find_spec("vision_msgs") else {"detections"}
"""Topics for which something has to be installed."""


@pytest.mark.parametrize(
    ("file", "arguments", "other_transport"),
    [
        ("policy.xml", ONE, {"/camera/image_raw/compressed"}),
        (
            "cameras.policy.xml",
            [*TWO, "-p", "node.cameras:=[front, rear]", "-p", "node.image_transport:=compressed"],
            {"/front_camera/image_raw", "/rear_camera/image_raw"},
        ),
    ],
)
def test_a_policy_allows_what_the_node_uses_and_nothing_else(
    peer: Peer, file: str, arguments: list[str], other_transport: set[str]
) -> None:
    rights = allowed(file)
    optional = {name for name in rights["publish"] if name.rpartition("/")[2] in OPTIONAL}
    expected = {
        "publish": rights["publish"] - optional,
        "subscribe": rights["subscribe"] - other_transport,
        "reply": rights["reply"],
    }
    there = used(peer, expected, *arguments)
    missing = {right: there[right] - rights[right] for right in there}
    assert not any(missing.values()), missing
    assert rights["subscribe"] - there["subscribe"] == other_transport
    assert {name.rpartition("/")[2] for name in rights["publish"] - there["publish"]} == OPTIONAL
    assert rights["reply"] == there["reply"]


def test_the_permissions_are_those_of_the_policy() -> None:
    rights = allowed("policy.xml")
    expected = {
        "publish": {f"rt{name}" for name in rights["publish"]}
        | {f"rr{name}Reply" for name in rights["reply"]},
        "subscribe": {f"rt{name}" for name in rights["subscribe"]}
        | {f"rq{name}Request" for name in rights["reply"]},
    }
    grant = ElementTree.parse(SECURITY / "permissions.xml").getroot().find("permissions/grant")
    assert grant is not None
    assert grant.findtext("subject_name") == "CN=/stemseg"
    assert grant.findtext("default") == "DENY"
    for right, names in expected.items():
        found = {topic.text for topic in grant.iterfind(f"allow_rule/{right}/topics/topic")}
        assert found == names | {"ros_discovery_info"}, right


def test_the_governance_lets_nobody_in_without_a_certificate() -> None:
    (rule,) = ElementTree.parse(SECURITY / "governance.xml").getroot().iter("domain_rule")
    assert rule.findtext("allow_unauthenticated_participants") == "false"
    assert rule.findtext("enable_join_access_control") == "true"
    topics = rule.findall("topic_access_rules/topic_rule")
    assert topics
    for topic in topics:
        for direction in ("read", "write"):
            assert topic.findtext(f"enable_{direction}_access_control") == "true"
