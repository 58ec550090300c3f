"""Large JSON annotation files, read entry by entry.

The file is parsed once, and a caller keeps the positions of its entries; an entry is read again
with its image. JSON of a hundred thousand images would otherwise fill gigabytes, once for each
worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stemseg_ros.errors import StemsegError
from stemseg_ros.formats.sequence_masks import EvaluationError

Span = tuple[int, int]
"""First byte of an entry, and the one behind it."""
Json = dict[str, Any]
MAX_SIDE = 1 << 16
"""Longest side of an image, in pixels; files with larger ones are damaged."""

_BOM = "\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of a list at the top level of a file."""

    key: str
    position: int
    span: Span
    value: Json


def scan(path: Path, *keys: str, optional: Collection[str] = ()) -> Iterator[Entry]:
    """Elements of the lists ``keys`` of the object in a file, in its order.

    Other values are skipped. A list that is missing is an error at the end, unless it is
    ``optional``: then it may also be null. Raises EvaluationError.
    """
    text = _load(path)
    missing = set(keys)
    try:
        at = _expect(text, len(_BOM) if text.startswith(_BOM) else 0, "{")
        while not text.startswith("}", at):
            key, at = _DECODER.raw_decode(text, at)
            at = _expect(text, at, ":")
            if key in keys and text.startswith("[", at):
                if key not in missing:
                    raise EvaluationError(f"{path}: a second list of {key}")
                missing.discard(key)
                for position, (span, value) in enumerate(_elements(text, at)):
                    at = span[1]
                    if value is not _END:
                        yield _entry(path, key, position, span, value)
            else:
                value, at = _DECODER.raw_decode(text, at)
                if key in keys and not (key in optional and value is None):
                    raise EvaluationError(f"{path}: {key} is {kind(value)}, expected a list")
            at = _skip(text, at)
            at = _skip(text, at + 1) if text.startswith(",", at) else _close(text, at, "}")
        if _skip(text, at + 1) < len(text):
            raise json.JSONDecodeError("more behind the end", text, _skip(text, at + 1))
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{path}, line {error.lineno} column {error.colno}: not readable as JSON: {error.msg}"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, numbers of many digits
        raise EvaluationError(f"{path}: not readable as JSON: {error}") from error
    if missing - set(optional):
        raise EvaluationError(f"{path}: no list of {', '.join(sorted(missing - set(optional)))}")


@lru_cache(maxsize=32)
def read_entries(path: Path, spans: tuple[Span, ...]) -> tuple[Json, ...]:
    """Entries of one image or video, kept for the next of its frames. Raises EvaluationError."""
    try:
        with path.open("rb") as file:
            return tuple(_read_entry(file, span) for span in spans)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path}: not readable, or changed since it was opened: {error}"
        ) from error


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Raise errors inside as an EvaluationError that names the place."""
    try:
        yield
    except StemsegError:  # names its place already
        raise
    except KeyError as error:
        raise EvaluationError(f"{place}: {error} is missing") from error
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise EvaluationError(f"{place}: {error}") from error


def whole(entry: Json, key: str) -> int:
    """A whole number of an entry. Raises ValueError for another type, KeyError."""
    value = entry[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} is {kind(value)}, expected a whole number")
    return value


def text_of(entry: Json, key: str) -> str:
    """A text of an entry. Raises ValueError for another type, KeyError."""
    value = entry[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is {kind(value)}, expected text")
    return value


def list_of(entry: Json, key: str) -> list[Any]:
    """A list of an entry. Raises ValueError for another type, KeyError."""
    value = entry[key]
    if not isinstance(value, list):
        raise ValueError(f"{key} is {kind(value)}, expected a list")
    return value


def flag(entry: Json, key: str) -> bool:
    """0 or 1; 0 where it is missing. Raises ValueError for anything else."""
    value = entry.get(key, 0)
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"{key} is {value!r}, expected 0 or 1")
    return bool(value)


def image_size(entry: Json) -> tuple[int, int]:
    """(height, width) of an entry. Raises ValueError for an impossible size, KeyError."""
    size = whole(entry, "height"), whole(entry, "width")
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise ValueError(f"an image of {size[1]}x{size[0]} pixels")
    return size


def refuse_second(number: int, known: Collection[int], what: str) -> None:
    """Raises ValueError for an id that occurred before."""
    if number in known:
        raise ValueError(f"a second {what} with the id {number}")


def kind(value: object) -> str:
    """Name the type of a JSON value, for messages."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {dict: "an object", list: "a list", str: "text", int: "a whole number"}
    return next((name for type_, name in names.items() if isinstance(value, type_)), "a fraction")


_END = object()
"""Stands for the closing bracket of a list."""


def _entry(path: Path, key: str, position: int, span: Span, value: Any) -> Entry:
    if not isinstance(value, dict):
        raise EvaluationError(f"{path}, {key}[{position}]: is {kind(value)}, expected an object")
    return Entry(key, position, span, value)


def _read_entry(file: Any, span: Span) -> Json:
    file.seek(span[0])
    entry: Json = json.loads(file.read(span[1] - span[0]))
    return entry


def _load(path: Path) -> str:
    try:
        # Latin-1 gives one character per byte, so that places in the text are places in the file.
        return path.read_bytes().decode("latin-1")
    except OSError as error:
        raise EvaluationError(f"{path}: not readable: {error.strerror}") from error


def _elements(text: str, at: int) -> Iterator[tuple[Span, Any]]:
    """Elements of the list that opens at a place; last its closing bracket, as _END."""
    at = _expect(text, at, "[")
    while not text.startswith("]", at):
        value, end = _DECODER.raw_decode(text, at)
        raw = text[at:end]
        if not raw.isascii():  # the text of the value was UTF-8, taken for Latin-1
            value = _utf8(raw, text, at)
        yield (at, end), value
        at = _skip(text, end)
        at = _skip(text, at + 1) if text.startswith(",", at) else _close(text, at, "]")
    yield (at, at + 1), _END


def _utf8(raw: str, text: str, at: int) -> Any:
    """The value as it is meant. Raises JSONDecodeError for bytes that are no UTF-8."""
    try:
        return json.loads(raw.encode("latin-1"))
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("not UTF-8", text, at + error.start) from error


def _skip(text: str, at: int) -> int:
    """Find the next position that is no white space."""
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
