"""Places of the entries in a JSON file: the same as the json module reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stemseg_ros.formats.json_entries import scan
from stemseg_ros.formats.sequence_masks import EvaluationError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
FILES = st.fixed_dictionaries(
    {
        "images": st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=4),
        "annotations": st.lists(
            st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=4
        ),
    },
    optional={"info": VALUES, "licenses": st.lists(VALUES, max_size=3)},
)


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    content=FILES,
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    backwards=st.booleans(),
)
def test_entries_and_their_places(
    content: dict[str, Any], indent: int | None, ascii_only: bool, backwards: bool, tmp_path: Path
) -> None:
    content = dict(reversed(content.items())) if backwards else content
    file = tmp_path / "a.json"
    raw = json.dumps(content, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    file.write_bytes(raw)
    found: dict[str, list[Any]] = {"images": [], "annotations": []}
    for entry in scan(file, "images", "annotations"):
        assert entry.position == len(found[entry.key])
        found[entry.key].append(entry.value)
        assert json.loads(raw[entry.span[0] : entry.span[1]]) == entry.value
    assert found == {key: content[key] for key in found}


def test_text_is_utf8(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    value = {"images": [{"file_name": "straße.jpg", "city": "京都"}]}
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert [entry.value for entry in scan(file, "images")] == value["images"]
    file.write_bytes('{"images": [{"file_name": "straße.jpg"}]}'.encode("latin-1"))
    with pytest.raises(EvaluationError, match=r"a\.json, line 1 column \d+: .*not UTF-8"):
        list(scan(file, "images"))


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = json.dumps(
        {"info": {"a": [1]}, "annotations": [{"id": 1}, {"id": 2}], "images": []}, indent=1
    )
    file = tmp_path / "a.json"
    for length in range(len(whole)):
        file.write_text(whole[:length])
        with pytest.raises(
            EvaluationError, match=r"a\.json, line \d+ column \d+: not readable as JSON"
        ):
            list(scan(file, "annotations"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "line 1 column 1: .*expected '{'"),
        ('{"annotations": {"id": 1}}', "annotations is an object, expected a list"),
        ('{"annotations": null}', "annotations is null, expected a list"),
        ('{"annotations": [], "annotations": []}', "a second list of annotations"),
        ('{"annotations": []} {}', "line 1 column 21: .*more behind the end"),
        (f'{{"annotations": [{{"id": 1{"0" * 5000}}}]}}', "not readable as JSON"),
        ('{"annotations": [{"id": 1} {"id": 2}]}', "line 1 column 28: .*expected ']'"),
        ('{"annotations": [], "images": []; }', "expected '}'"),
        ('{"annotations": [{}, 3]}', r"annotations\[1\]: is a whole number, expected an object"),
        ("{}", "no list of annotations"),
        ('{\n"info" 5}', "line 2 column 8: .*expected ':'"),
    ],
)
def test_other_forms_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(EvaluationError, match=words):
        list(scan(tmp_path / "a.json", "annotations"))


def test_a_byte_order_mark_is_passed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf {"images": [{"id": 1}]}\n')
    (entry,) = scan(tmp_path / "a.json", "images")
    assert (tmp_path / "a.json").read_bytes()[slice(*entry.span)] == b'{"id": 1}'


@pytest.mark.parametrize("text", ["{}", '{"annotations": null}', '{"annotations": []}'])
def test_an_optional_list_may_be_missing(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert list(scan(tmp_path / "a.json", "annotations", optional=("annotations",))) == []


def test_an_optional_list_is_still_a_list(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"annotations": "none"}')
    with pytest.raises(EvaluationError, match="annotations is text, expected a list"):
        list(scan(tmp_path / "a.json", "annotations", optional=("annotations",)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"a\.json: not readable: No such file"):
        list(scan(tmp_path / "a.json", "annotations"))
