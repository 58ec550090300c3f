"""The counts of a node under play, from its diagnostics."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray

from stemseg_ros.replay.node_counts import unusable


class NodeStatus:
    """What the node's diagnostics say about the frames of one camera."""

    def __init__(self, node: Any, results: str) -> None:
        self.values: dict[str, str] = {}
        """Of the last status; empty before the first."""
        self.received = 0
        """Number of statuses so far."""
        self._names = _status_names(results)
        self._before: dict[str, int] = {}
        self._subscription = node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, 10
        )

    def begin(self) -> None:
        """Count from here on."""
        self._before = unusable(self.values)

    @property
    def unusable(self) -> dict[str, int]:
        """Frames without a result that are no fault of the node, by cause."""
        now = unusable(self.values)
        counts = {key: number - self._before.get(key, 0) for key, number in now.items()}
        return {key: number for key, number in counts.items() if number > 0}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name in self._names:
                self.values = {item.key: item.value for item in status.values}
                if not self.received:
                    self.begin()
                self.received += 1


def _status_names(results: str) -> set[str]:
    """Names that the diagnostic status of the camera behind a topic may have: of /stemseg or, for
    /stemseg/front/instances, of its camera front."""
    node = results.rpartition("/")[0]
    parent, _, camera = node.rpartition("/")
    return {f"{node}: frames", f"{parent}: {camera} frames"}
