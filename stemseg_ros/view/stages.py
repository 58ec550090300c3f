"""The milliseconds by stage that a node reports on /diagnostics."""

from __future__ import annotations

from typing import Any

PREFIX = "stage_ms."


def stage_ms(message: Any, node: str) -> dict[str, float]:
    """Stage -> milliseconds in a diagnostic_msgs/DiagnosticArray (of rclpy or of a bag).

    node: its full name, or that of a camera's topics ("/stemseg/front"). Empty where the message
    is another node's.
    """
    return {
        item.key.removeprefix(PREFIX): float(item.value)
        for status in message.status
        if _of(status.name, node)
        for item in status.values
        if item.key.startswith(PREFIX) and _is_number(item.value)
    }


def _of(name: str, node: str) -> bool:
    """Whether a status is the node's, or, by name "/stemseg: front frames", the camera's."""
    owner, _, what = name.partition(": ")
    if owner == node:
        return True
    return f"{owner}/{what.partition(' ')[0]}" == node


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
