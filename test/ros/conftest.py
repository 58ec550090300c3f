"""Fixtures of the tests that talk to the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # needs ROS, which is not everywhere where these tests are collected
    from ros.harness import LocalNode, Peer, Process


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A node on the other side of the topics, in the test's own process."""
    from ros.harness import Peer

    with closing(Peer()) as peer:
        yield peer


@pytest.fixture
def fresh(node: Process, peer: Peer) -> Peer:
    """A peer of the node that the tests of a module share, after a reset."""
    peer.connect()
    assert peer.trigger("reset").success
    peer.received.clear()
    return peer


@pytest.fixture
def local_node(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., LocalNode]]:
    """local_node("window.length:=4", ...) starts the node around the toy model in the test's
    process."""
    from ros.harness import LocalNode

    with ExitStack() as stack:
        yield lambda *parameters, **options: stack.enter_context(
            closing(LocalNode(capfd, *parameters, **options))
        )
