"""Writes the tables of parameters in docs/node.md, from what a node really declares.

Usage: .venv/bin/python tools/node_parameters.py [--check]; with --check it only says whether the
tables are current.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "node.md"
BEGIN, END = "<!-- parameters: begin -->\n", "<!-- parameters: end -->\n"
HEAD = "| parameter | default | range | live | what |\n|---|---|---|---|---|\n"


def tables() -> str:
    """The parameters of a node with the preset lite, one table a section, Markdown."""
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node

    from stemseg_ros.ros.parameters import declare_parameters

    context = Context()
    rclpy.init(args=[], context=context)
    node = Node("stemseg", context=context)
    try:
        declare_parameters(node)
        # use_sim_time and the like are rclpy's own.
        names = [n for n in node._parameters if "." in n or n in OWN]
        sections: dict[str, list[str]] = {}
        for name in names:
            section = name.rpartition(".")[0]
            row = _row(node.get_parameter(name).value, node.describe_parameter(name))
            sections.setdefault(section, []).append(row)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    texts = {section: HEAD + "".join(rows) for section, rows in sections.items()}
    return "\n".join(
        f"\n**{section or 'What to load'}**\n\n{text}" for section, text in texts.items()
    )


OWN = ("config", "checkpoint", "device", "autostart")


def _row(value: Any, descriptor: Any) -> str:
    from stemseg_ros.ros.parameters import AT_START

    cells = (
        f"`{descriptor.name}`",
        _value(value),
        _range(descriptor),
        "" if descriptor.read_only else "yes",
        descriptor.description.removesuffix(AT_START).strip(),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or "empty"
    if isinstance(value, int | float):
        return f"{value:g}"
    return ", ".join(_value(item) for item in value) or "none"


def _range(descriptor: Any) -> str:
    if descriptor.additional_constraints:
        return str(descriptor.additional_constraints.removeprefix("one of "))
    for limits in (*descriptor.integer_range, *descriptor.floating_point_range):
        # The largest numbers that ROS knows stand for: no limit.
        low = "" if abs(limits.from_value) > 1e15 else f"{limits.from_value:g}"
        high = "" if abs(limits.to_value) > 1e15 else f"{limits.to_value:g}"
        return f"{low} to {high}" if low and high else f"≥ {low}" if low else f"≤ {high}"
    return ""


def with_tables(page: str, text: str) -> str:
    """The page with the tables between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise ValueError(f"the page has no lines '{BEGIN.strip()}' and '{END.strip()}'")
    return f"{before}{BEGIN}{text}\n{END}{after}"


def main(arguments: list[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    current = with_tables(page, tables())
    if arguments == ["--check"]:
        print("current" if page == current else "not current: run tools/node_parameters.py")
        return int(page != current)
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
