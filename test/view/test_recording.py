"""What the viewer is given, read back from the .rrd file that rerun writes."""

from __future__ import annotations

import io
import re
import socket
import urllib.request
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("rerun", reason="needs the extra view")
from view.bags import MS, SIZE, STAMP, frame, square
from view.rrd import Rows, labels, read, values

from stemseg_ros.cli.view import view
from stemseg_ros.records import FrameResult, Instance
from stemseg_ros.view.recording import (
    TRAIL_FRAMES,
    Recording,
    Shown,
    Trails,
    ViewError,
    bright_color,
)


def recorded(path: Path, *frames: Shown) -> Rows:
    with Recording("test") as recording:
        recording.save(path)
        for shown in frames:
            recording.show(shown)
    return read(path)


def grey(level: int) -> np.ndarray:
    return np.full((*SIZE, 3), level, np.uint8)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    path = tmp_path_factory.mktemp("view") / "drive.rrd"
    shown = [
        Shown(frame(i), grey(40 + 10 * i), 20.0 + i, {"cluster": float(i)} if i else {})
        for i in range(4)
    ]
    return recorded(path, *shown)


def test_each_frame_has_image_and_stamp(drive: Rows) -> None:
    images = drive["/camera/image"]
    assert sorted(images) == [0, 1, 2, 3]
    for index, row in images.items():
        picture = PIL.Image.open(io.BytesIO(bytes(row["EncodedImage:blob"][0])))
        assert picture.size == SIZE[::-1]
        assert abs(np.asarray(picture).mean() - (40 + 10 * index)) < 2
        assert row["stamp"] == STAMP + 100 * MS * index


def test_each_frame_has_its_masks(drive: Rows) -> None:
    for index, row in drive["/camera/masks"].items():
        expected = np.zeros(SIZE, int)
        expected[4:12, 2 + 5 * index : 12 + 5 * index] = 3
        if index >= 2:
            expected[30:38, 40:50] = 300
        assert (labels(row) == expected).all(), index
    assert labels(drive["/camera/masks"][0]).dtype == np.uint8


def test_each_frame_has_ids_boxes_and_colours(drive: Rows) -> None:
    for index in range(4):
        ids = [3] if index < 2 else [3, 300]
        boxes, context = drive["/camera/boxes"][index], drive["/camera"][index]
        assert boxes["Boxes2D:class_ids"] == ids
        assert boxes["Boxes2D:labels"] == [f"{number} car 0.50" for number in ids]
        assert boxes["Boxes2D:centers"][0] == [7.0 + 5 * index, 8.0]
        assert boxes["Boxes2D:half_sizes"][0] == [5.0, 4.0]
        infos = [
            entry["class_description"]["info"] for entry in context["AnnotationContext:context"][0]
        ]
        background, *tracks = infos
        assert (background["id"], background["color"]) == (0, 0)  # transparent
        assert [info["label"] for info in tracks] == [f"{number} car" for number in ids]
        red, green, blue = bright_color(3)
        assert tracks[0]["color"] == red << 24 | green << 16 | blue << 8 | 255


def test_colours_are_bright_enough_for_labels_on_a_dark_page() -> None:
    for track_id in range(1, 100):
        red, green, blue = bright_color(track_id)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue > 174
        assert max(red, green, blue) <= 255
    assert bright_color(1) != bright_color(2)


def test_each_frame_has_the_trails_of_its_tracks(drive: Rows) -> None:
    for index, row in drive["/camera/trails"].items():
        way = row["LineStrips2D:strips"][0]
        assert way == [[7.0 + 5 * past, 8.0] for past in range(index + 1)]
    assert drive["/camera/trails"][3]["LineStrips2D:strips"][1] == [[45.0, 34.0]] * 2


def test_each_frame_has_its_timings(drive: Rows) -> None:
    assert values(drive, "/timing/latency_ms") == {0: 20.0, 1: 21.0, 2: 22.0, 3: 23.0}
    assert values(drive, "/stage/cluster") == {1: 1.0, 2: 2.0, 3: 3.0}


def test_a_new_epoch_ends_the_trails_and_is_logged(tmp_path: Path) -> None:
    again = FrameResult(0, STAMP, *SIZE, 2, (square(3, 30, 4),))
    rows = recorded(tmp_path / "a.rrd", Shown(frame(0), grey(1)), Shown(again, grey(2)))
    assert rows["/camera/trails"][1]["LineStrips2D:strips"] == [[[35.0, 8.0]]]
    assert rows["/events"][1]["TextLog:text"] == ["epoch 2: tracking starts anew"]


def test_a_result_without_image_does_not_lie_on_the_one_before(tmp_path: Path) -> None:
    rows = recorded(tmp_path / "a.rrd", Shown(frame(0), grey(1)), Shown(frame(1), None))
    assert rows["/camera/image"][1]["Clear:is_recursive"] == [False]
    assert rows["/events"][1]["TextLog:text"] == ["a result whose image is not there"]


def prompts_of(rows: Rows) -> dict[str, dict[int, list[str] | None]]:
    """Entity -> {frame: labels; None where it ends}."""
    return {
        entity: {at: row.get("LineStrips2D:labels") for at, row in frames.items()}
        for entity, frames in rows.items()
        if entity.startswith("/camera/prompts")
    }


def test_a_prompt_is_outlined_in_its_frame_alone(tmp_path: Path) -> None:
    item = square(3, 7, 4)  # 10x8 pixels
    shown = [
        Shown(frame(i), grey(1), prompts=(item, square(70_000, 40, 30)) if i == 1 else ())
        for i in range(3)
    ]
    rows = recorded(tmp_path / "a.rrd", *shown)
    assert prompts_of(rows) == {
        "/camera/prompts/3": {1: ["prompt 3 car"], 2: None},
        "/camera/prompts/70000": {1: ["prompt 70000 car"], 2: None},
    }
    row, after = (rows["/camera/prompts/3"][index] for index in (1, 2))
    assert after["Clear:is_recursive"] == [False]
    assert row["stamp"] == frame(1).stamp_ns
    assert row["stamp"] < after["stamp"] <= frame(2).stamp_ns
    (line,) = row["LineStrips2D:strips"]
    assert sorted(map(tuple, line[1:])) == [(7.5, 4.5), (7.5, 11.5), (16.5, 4.5), (16.5, 11.5)]
    assert line[0] == line[-1]
    red, green, blue = bright_color(3)
    assert row["LineStrips2D:colors"] == [red << 24 | green << 16 | blue << 8 | 255]


def test_prompts_may_come_after_their_frame_was_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.rrd"
    with Recording("test") as recording:
        recording.save(path)
        for index in range(3):
            recording.show(Shown(frame(index), grey(1)))
        recording.show_prompts(1, frame(1).stamp_ns, [square(3, 7, 4)])
        recording.show_prompts(0, frame(0).stamp_ns, [square(4, 30, 4)])
        recording.show(Shown(frame(3), grey(1)))
    rows = read(path)
    assert prompts_of(rows) == {
        "/camera/prompts/3": {1: ["prompt 3 car"], 2: None},
        "/camera/prompts/4": {0: ["prompt 4 car"], 1: None},
    }
    assert rows["/camera/image"][3]["stamp"] == frame(3).stamp_ns


def test_parts_and_holes_have_lines_of_their_own(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, bool)
    mask[4:20, 4:20] = mask[30:40, 30:40] = True
    mask[8:12, 8:12] = False
    item = Instance.from_mask(mask, 1, 1, "car")
    rows = recorded(tmp_path / "a.rrd", Shown(frame(0), grey(1), prompts=(item,)))
    assert len(rows["/camera/prompts/1"][0]["LineStrips2D:strips"]) == 3


def test_nothing_is_seen(tmp_path: Path) -> None:
    empty = FrameResult(0, STAMP, *SIZE, 1, ())
    rows = recorded(tmp_path / "a.rrd", Shown(frame(0), grey(1)), Shown(empty, grey(2)))
    assert not labels(rows["/camera/masks"][1]).any()
    assert rows["/camera/boxes"][1]["Boxes2D:labels"] == []
    assert rows["/camera/trails"][1]["LineStrips2D:strips"] == []


def test_ids_above_16_bits_are_shown_under_their_name(tmp_path: Path) -> None:
    result = FrameResult(0, STAMP, *SIZE, 1, (square(70_000, 4, 4),))
    rows = recorded(tmp_path / "a.rrd", Shown(result, grey(1)))
    assert rows["/camera/boxes"][0]["Boxes2D:labels"] == ["70000 car 0.50"]
    (number,) = rows["/camera/boxes"][0]["Boxes2D:class_ids"]
    assert set(np.unique(labels(rows["/camera/masks"][0]))) == {0, number}


def test_trails_are_short_and_forget() -> None:
    trails = Trails()
    for _ in range(2 * TRAIL_FRAMES):
        (way,) = trails.push((square(1, 0, 0),))
    assert len(way) == TRAIL_FRAMES
    for _ in range(TRAIL_FRAMES):
        trails.push(())
    assert trails.push((square(1, 8, 0),)) == [[(13.0, 4.0)]]


def free_ports() -> int:
    """A port that is free, and so is the next."""
    for port in range(20_000, 30_000, 2):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("", port))
                second.bind(("", port + 1))
            except OSError:
                continue
        return port
    raise AssertionError("no free ports")


def test_the_page_is_served_from_and_to_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page, program and WebAssembly come from the package: no network is needed, though the page
    asks for a font. Nobody else can connect, and rerun keeps no statistics to send."""
    port = free_ports()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with Recording("test") as recording:
        address = recording.serve(port)
        data = f"rerun%2Bhttp%3A%2F%2Flocalhost%3A{port + 1}%2Fproxy"
        assert address == f"http://localhost:{port}/?url={data}&theme=dark"
        recording.show(Shown(frame(0), grey(1)))
        page = urllib.request.urlopen(address).read()
        assert b"re_viewer.js" in page
        assert asked_by(page) == ["fonts.googleapis.com", "fonts.gstatic.com"]
        program = urllib.request.urlopen(f"http://localhost:{port}/re_viewer_bg.wasm").read(4)
        assert program == b"\0asm"
        assert listening(port) == listening(port + 1) == {"0100007F"}
    assert listening(port) == listening(port + 1) == set()
    assert list(tmp_path.rglob("analytics*")) == []


def asked_by(page: bytes) -> list[str]:
    """Hosts that the tags of a page load something from, beside its own."""
    return sorted(set(re.findall(r'(?:href|src)="https?://([^/"]+)', page.decode())))


def test_help_and_docs_name_the_hosts_that_the_page_asks() -> None:
    docs = Path(__file__).parents[2] / "docs" / "node.md"
    for text in (view.__doc__ or "", docs.read_text(encoding="utf-8")):
        assert "fonts.googleapis.com" in text and "fonts.gstatic.com" in text


def listening(port: int) -> set[str]:
    """Addresses that listen on a port, as the kernel has them: hexadecimal, 127.0.0.1 from
    behind."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    places = [line.split()[1].split(":") for table in tables for line in table if " 0A " in line]
    return {address for address, number in places if int(number, 16) == port}


@pytest.mark.parametrize(
    ("bind", "words"), [("localhost", "expected an IP address"), ("192.0.2.1", "is not free on")]
)
def test_an_address_that_is_not_ours_is_named(bind: str, words: str) -> None:
    with Recording("test") as recording, pytest.raises(ViewError, match=words):
        recording.serve(free_ports(), bind=bind)


def test_panels_are_there_for_what_is_shown(tmp_path: Path) -> None:
    with Recording("test") as recording:
        recording.save(tmp_path / "a.rrd")
        recording.show(Shown(frame(0), grey(1)))
        assert len(recording.left_out()) == 3
        recording.show(Shown(frame(1), grey(1), 20.0, {"encode": 4.0, "decode": 3.0}))
        assert recording.left_out() == ["no panel of events: there were none"]
    rows = read(tmp_path / "a.rrd")
    assert values(rows, "/stage/encode") == {1: 4.0}
    assert values(rows, "/stage/decode") == {1: 3.0}


def test_a_port_in_use_is_named() -> None:
    port = free_ports()
    with socket.socket() as taken, Recording("test") as recording:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        with pytest.raises(ViewError, match=rf"port {port + 1} is not free .* --port"):
            recording.serve(port)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Recording("test") as recording, pytest.raises(ViewError, match=r"cannot write.*x\.rrd"):
        recording.save(tmp_path / "file" / "x.rrd")
