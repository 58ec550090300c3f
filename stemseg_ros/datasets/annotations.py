"""Large JSON annotation files, read entry by entry.

The file is gone through once, and what stays in memory are the places of its entries; an entry is
read again when its image is. JSON of a hundred thousand images would otherwise fill gigabytes,
once for each worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stemseg_ros.datasets.sequence import DataError, LabelArray, data_errors, paint
from stemseg_ros.records import Rle

Span = tuple[int, int]
"""First byte of an entry, and the one behind it."""
Json = dict[str, Any]
MaskOf = Callable[[Json, int, tuple[int, int]], Rle | None]
"""(entry, frame, size) -> mask, none where it is not visible. Raises ValueError, KeyError."""

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of a list at the top level of a file."""

    key: str
    position: int
    span: Span
    value: Json


@dataclass(frozen=True, slots=True)
class JsonLabels:
    """Masks of the objects of a video or a still, in an annotation file."""

    file: Path
    image_size: tuple[int, int]
    objects: tuple[tuple[int, Span], ...]
    """(label, entry) of each object."""
    mask_of: MaskOf

    def read(self, index: int) -> LabelArray:
        with data_errors(self.place(index)):
            masks = [
                (label, self.mask_of(entry, index, self.image_size))
                for (label, _), entry in zip(self.objects, self._entries(), strict=True)
            ]
        return paint(self.image_size, [(label, mask) for label, mask in masks if mask is not None])

    def size(self, index: int) -> tuple[int, int]:
        return self.image_size

    def place(self, index: int) -> str:
        return f"{self.file}, frame {index}"

    def _entries(self) -> tuple[Json, ...]:
        return _read_entries(self.file, tuple(span for _, span in self.objects))


def scan(path: Path, *keys: str) -> Iterator[Entry]:
    """Elements of the lists ``keys`` of the object in a file, in its order. Raises DataError.

    Other values are gone through, and a list that is not there is an error at the end.
    """
    text = _load(path)
    missing = set(keys)
    try:
        at = _expect(text, 0, "{")
        while not text.startswith("}", at):
            key, at = _DECODER.raw_decode(text, at)
            at = _expect(text, at, ":")
            if key in keys and text.startswith("[", at):
                missing.discard(key)
                for position, (span, value) in enumerate(_elements(text, at)):
                    at = span[1]
                    if value is not None:
                        yield Entry(key, position, span, value)
            else:
                _, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
            at = _skip(text, at + 1) if text.startswith(",", at) else _close(text, at, "}")
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno} column {error.colno}: not readable as JSON: {error.msg}"
        ) from error
    if missing:
        raise DataError(f"{path}: no list of {', '.join(sorted(missing))}")


@lru_cache(maxsize=32)
def _read_entries(path: Path, spans: tuple[Span, ...]) -> tuple[Json, ...]:
    """Entries of one video, kept for the next of its frames."""
    try:
        with path.open("rb") as file:
            return tuple(_read_entry(file, span) for span in spans)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not readable, or changed since it was opened: {error}"
        ) from error


def _read_entry(file: Any, span: Span) -> Json:
    file.seek(span[0])
    entry: Json = json.loads(file.read(span[1] - span[0]))
    return entry


def _load(path: Path) -> str:
    try:
        # Latin-1 gives one character per byte, so that places in the text are places in the file.
        return path.read_bytes().decode("latin-1")
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error


def _elements(text: str, at: int) -> Iterator[tuple[Span, Json | None]]:
    """Elements of the list that opens at a place; last its closing bracket, without a value."""
    at = _expect(text, at, "[")
    while not text.startswith("]", at):
        value, end = _DECODER.raw_decode(text, at)
        raw = text[at:end]
        if not raw.isascii():  # the text of the value was UTF-8, taken for Latin-1
            value = _utf8(raw, text, at)
        if not isinstance(value, dict):
            raise json.JSONDecodeError("expected an object", text, at)
        yield (at, end), value
        at = _skip(text, end)
        at = _skip(text, at + 1) if text.startswith(",", at) else _close(text, at, "]")
    yield (at, at + 1), None


def _utf8(raw: str, text: str, at: int) -> Any:
    """The value as it is meant. Raises JSONDecodeError for bytes that are no UTF-8."""
    try:
        return json.loads(raw.encode("latin-1"))
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("not UTF-8", text, at + error.start) from error


def _skip(text: str, at: int) -> int:
    """The next place that is not white."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, sign: str) -> int:
    """The place behind a sign and the white around it. Raises JSONDecodeError."""
    return _skip(text, _close(text, _skip(text, at), sign) + 1)


def _close(text: str, at: int, sign: str) -> int:
    """The same place, if the sign is there. Raises JSONDecodeError."""
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"expected '{sign}'", text, at)
    return at
