"""Outputs of one run appear together, or those of the run before stay."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from stemseg_ros.errors import MediaError
from stemseg_ros.media.outputs import appear_together, output_folder


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def write(folder: Path, text: str) -> None:
    for name in ("a.txt", "summary.json"):
        (folder / name).write_text(text)


def test_files_replace_those_of_the_run_before(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    for text in ("first", "second"):
        with appear_together(out, last="summary.json") as partial:
            write(partial, text)
            assert set(contents_of_files(out).values()) <= {"first"}
        assert contents(out) == {"a.txt": text, "summary.json": text}


def contents_of_files(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    write(tmp_path, "first")
    with pytest.raises(error), appear_together(tmp_path, last="summary.json") as partial:
        (partial / "a.txt").write_text("second")
        raise error
    assert contents(tmp_path) == {"a.txt": "first", "summary.json": "first"}


@pytest.mark.parametrize("failing", [False, True])
def test_folders_that_were_made_and_stay_empty_go_again(tmp_path: Path, failing: bool) -> None:
    out = tmp_path / "new" / "out"
    with suppress(RuntimeError), output_folder(out):
        assert out.is_dir()
        if failing:
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with output_folder(tmp_path):
        pass
    with output_folder(out):
        (out / "a.txt").touch()
    assert (out / "a.txt").is_file()


@pytest.mark.parametrize("name", ["file", "file/out", "file/a/b", "nowhere"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    blocking = tmp_path / name.partition("/")[0]
    words = f"cannot write to the folder {tmp_path / name}: {blocking} is no folder"
    with pytest.raises(MediaError, match=words), appear_together(tmp_path / name, last="x"):
        pass


def test_a_file_that_cannot_move_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt" / "in the way").mkdir(parents=True)
    with (
        pytest.raises(MediaError, match="cannot write to the folder"),
        appear_together(tmp_path, last="summary.json") as partial,
    ):
        write(partial, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
