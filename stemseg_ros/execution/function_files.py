"""Folders of exported functions: one that ``stemseg export`` wrote, or the cache on this machine.

Such a folder holds an ONNX file for each function and ``export.json``, which says what they were
made of.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stemseg_ros.execution.onnx_export import (
    OPSET,
    ExportError,
    FunctionFile,
    export_function,
    sha256_of,
)

Tensors = tuple[Tensor, ...]
CONTENT = "export.json"
log = logging.getLogger(__name__)


class FunctionFiles(Protocol):
    """Where an engine finds the functions of a network as ONNX files."""

    @property
    def precision(self) -> str:
        """Type of the arithmetic that the files were written for: float32 or float16."""
        ...

    def find(self, function: str, inputs: Tensors) -> Path:
        """The file that takes inputs like these, given without the batch dimension. Raises
        ExportError."""
        ...


@dataclass(frozen=True, slots=True)
class Content:
    """What ``export.json`` says."""

    config: str
    """Name of the preset."""
    classes: tuple[str, ...]
    fingerprint: str
    """Of the network with its weights."""
    precision: str
    opset: int
    versions: dict[str, str]
    functions: tuple[FunctionFile, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Content:
        """Of a folder. Raises ExportError."""
        path = folder / CONTENT
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            functions = tuple(FunctionFile.of(entry) for entry in fields.pop("functions"))
            return cls(**{**fields, "classes": tuple(fields["classes"]), "functions": functions})
        except OSError as error:
            raise ExportError(
                f"{folder} is no folder of exported functions: {CONTENT}: {error.strerror}; "
                "'stemseg export' makes one"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportError(
                f"{path}: cannot be read ({error}); make the folder again with 'stemseg export'"
            ) from None

    def write(self, folder: Path) -> None:
        """Into a folder, atomically."""
        partial = folder / f"{CONTENT}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / CONTENT)

    def file(self, function: str, shapes: Sequence[Sequence[int]]) -> FunctionFile | None:
        """The file for inputs of these shapes, batch first."""
        return next(
            (f for f in self.functions if f.function == function and f.takes(shapes)), None
        )


class ExportedFolder:
    """The functions of a folder that ``stemseg export`` wrote."""

    def __init__(self, folder: Path) -> None:
        """Raises ExportError for a folder that is none, or whose files are not those it was
        written with."""
        self.folder = folder
        self.content = Content.read(folder)
        for entry in self.content.functions:
            path = folder / entry.file
            if not path.is_file():
                raise ExportError(
                    f"{path} is missing; make the folder again with 'stemseg export'"
                )
            if sha256_of(path) != entry.sha256:
                raise ExportError(
                    f"{path} is not the file that {CONTENT} describes; make the folder again with "
                    "'stemseg export'"
                )

    @property
    def precision(self) -> str:
        """See ``FunctionFiles``."""
        return self.content.precision

    def find(self, function: str, inputs: Tensors) -> Path:
        """See ``FunctionFiles``."""
        shapes = _batched_shapes(inputs)
        entry = self.content.file(function, shapes)
        if entry is not None:
            return self.folder / entry.file
        made = [list(f.inputs) for f in self.content.functions if f.function == function]
        reason = f"takes inputs of {made[0]}" if made else "is not among its functions"
        raise ExportError(
            f"{self.folder}: '{function}' {reason}, not of {[list(shape) for shape in shapes]}; "
            "export for this input ('stemseg export')"
        )


class CachedExports:
    """The functions of a network, exported into the cache of this machine when they are first
    asked for."""

    precision = "float32"

    def __init__(self, network: nn.Module, name: str) -> None:
        """name: of the preset, for messages."""
        self._network, self._name = network, name
        self._fingerprint = fingerprint(network)
        self._folder = cache_folder() / f"{name}-{self._fingerprint[:16]}"

    def find(self, function: str, inputs: Tensors) -> Path:
        """See ``FunctionFiles``."""
        with _only_process(self._folder):
            content = self._content()
            entry = content.file(function, _batched_shapes(inputs))
            if entry is None:
                entry = self._export(function, inputs, len(content.functions))
                content = replace(content, functions=(*content.functions, entry))
                content.write(self._folder)
            return self._folder / entry.file

    def _content(self) -> Content:
        try:
            content = Content.read(self._folder)
            whole = all((self._folder / f.file).is_file() for f in content.functions)
            if content.fingerprint == self._fingerprint and whole:
                return content
        except ExportError:  # none yet, or damaged: it is only a cache
            pass
        return describe(self._network, self._name, (), torch.float32, self._fingerprint)

    def _export(self, function: str, inputs: Tensors, number: int) -> FunctionFile:
        begin = time.perf_counter()
        log.info("'%s' of %s is exported, which is done once", function, self._name)
        path = self._folder / f"{function}_{number}.onnx"
        metadata = {"stemseg.config": self._name, "stemseg.fingerprint": self._fingerprint}
        written = export_function(self._network, function, inputs, path, metadata=metadata)
        log.info("'%s' took %.1f s: %s", function, time.perf_counter() - begin, path)
        return written


def describe(
    network: nn.Module,
    name: str,
    classes: Sequence[str],
    dtype: torch.dtype,
    identity: str | None = None,
    opset: int = OPSET,
    versions: dict[str, str] | None = None,
) -> Content:
    """A network without files yet. identity: its fingerprint where it is known; versions: of what
    else it is made with."""
    known = identity or fingerprint(network)
    precision = str(dtype).removeprefix("torch.")
    made_with = {"torch": torch.__version__, **(versions or {})}
    return Content(name, tuple(classes), known, precision, opset, made_with)


def fingerprint(network: nn.Module) -> str:
    """Digest of all that decides what a network computes: weights, structure, plain attributes of
    its modules, the code of its package, and the versions of what exports it."""
    digest = hashlib.sha256(f"{OPSET} {torch.__version__} {network}".encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for name, module in network.named_modules():
        plain = {k: v for k, v in sorted(vars(module).items()) if _is_plain(v)}
        digest.update(f"{name} {plain}".encode())
    models = Path(__file__).resolve().parent.parent / "models"
    package = type(network).__module__.split(".")
    folders = [models / "layers", *([models / package[2]] if len(package) > 2 else [])]
    for folder in folders:
        for source in sorted(folder.glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """``$STEMSEG_CACHE``, or ``stemseg`` in the user's cache folder."""
    chosen = os.environ.get("STEMSEG_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stemseg"


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Hold a folder of the cache: several nodes that start at once export once. Raises
    ExportError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "lock").open("a")
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be written ({error.strerror}); STEMSEG_CACHE names another place "
            "for exported networks, and runtime.engine: torch needs none"
        ) from None
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _batched_shapes(inputs: Tensors) -> list[tuple[int, ...]]:
    return [(1, *tensor.shape) for tensor in inputs]


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
