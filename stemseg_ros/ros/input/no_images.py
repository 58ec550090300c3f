"""Reasons why no images arrive on a topic, from the ROS graph."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
TRANSPORTS = {RAW: "raw", COMPRESSED: "compressed"}
SUFFIX = "/compressed"
NEAREST = 3
"""Largest number of suggested topics."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A publisher of the topic."""

    node: str
    type: str
    reliability: str
    """"reliable" or "best effort"."""
    durability: str
    """"volatile" or "transient local"."""

    def __str__(self) -> str:
        return f"{self.node} ({self.type}, {self.reliability}, {self.durability})"


@dataclass(frozen=True, slots=True)
class Request:
    """The subscription of the node."""

    name: str
    """As in the node's code, e.g. ``image``: what is to be remapped."""
    topic: str
    """Name in the graph."""
    type: str
    reliability: str | None
    """Like that of an offer; None before the subscription."""

    @property
    def base(self) -> str:
        """The topic without the suffix of its transport."""
        return self.topic.removesuffix(SUFFIX) if self.type == COMPRESSED else self.topic


def explain_no_images(
    wanted: Request, offers: Iterable[Offer], image_topics: Mapping[str, str], remedy: str
) -> str:
    """Describe the finding and its remedy.

    image_topics: type by name of the topics with images that somebody publishes. remedy: for
    images lost in transit.
    """
    offers = list(offers)
    if not offers:
        return f"nobody publishes it; {_other_topic(wanted, image_topics)}"
    found = f"publishers: {', '.join(str(offer) for offer in offers)}; "
    fitting = [offer for offer in offers if offer.type == wanted.type]
    if not fitting:
        return found + _other_type(wanted, offers[0])
    if wanted.reliability == "reliable" and all(o.reliability != "reliable" for o in fitting):
        return (
            f"{found}what they send best effort does not reach a reliable subscription: "
            "set qos.image to auto or sensor_data"
        )
    return f"{found}they match, but nothing arrives: is the camera running? If it is, {remedy}"


def _other_type(wanted: Request, offer: Offer) -> str:
    if offer.type not in TRANSPORTS:
        return f"a {offer.type} is no image: remap '{wanted.name}' to another topic"
    topic = wanted.topic
    if offer.type == COMPRESSED and topic.endswith(SUFFIX):
        base = topic.removesuffix(SUFFIX)
        return f"set node.image_transport to compressed and remap '{wanted.name}' to {base}"
    if offer.type == COMPRESSED:
        return (
            f"compressed images are expected on {topic}{SUFFIX}: remap them to this name, and set "
            "node.image_transport to compressed"
        )
    return f"set node.image_transport to raw and remap '{wanted.name}' to {topic}"


def _other_topic(wanted: Request, image_topics: Mapping[str, str]) -> str:
    sibling = wanted.base if wanted.type == COMPRESSED else f"{wanted.base}{SUFFIX}"
    kind = image_topics.get(sibling)
    if kind is not None and kind != wanted.type:
        return f"but {sibling} is: set node.image_transport to {TRANSPORTS[kind]}"
    if not image_topics:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        return f"no images are published at all in ROS_DOMAIN_ID {domain}: is the camera running?"
    nearest = sorted(
        image_topics,
        key=lambda name: SequenceMatcher(a=wanted.base, b=name).ratio(),
        reverse=True,
    )[:NEAREST]
    listed = ", ".join(f"{name} ({image_topics[name]})" for name in nearest)
    base = nearest[0]
    transport = ""
    if image_topics[base] == COMPRESSED:
        base = base.removesuffix(SUFFIX)
    if image_topics[nearest[0]] != wanted.type:
        transport = f", node.image_transport {TRANSPORTS[image_topics[nearest[0]]]}"
    return (
        f"the most similar topics with images: {listed}; e.g. -r {wanted.name}:={base}{transport}"
    )
