"""Folders of exported functions: written by ``stemseg export``, or the local cache.

Such a folder contains an ONNX file for each function and ``export.json``, which describes them.
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
    """Functions of a network as ONNX files."""

    @property
    def precision(self) -> str:
        """Precision of the arithmetic in the files: float32, float16 or int8."""
        ...

    def find(self, function: str, inputs: Tensors) -> Path:
        """Return the file of a function for the shapes of ``inputs``, without the batch dimension.
        Raises ExportError."""
        ...


@dataclass(frozen=True, slots=True)
class Content:
    """Content of ``export.json``."""

    config: str
    """Name of the preset."""
    classes: tuple[str, ...]
    fingerprint: str
    """Fingerprint of the network with its weights."""
    precision: str
    opset: int
    versions: dict[str, str]
    functions: tuple[FunctionFile, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Content:
        """Read the content of a folder. Raises ExportError."""
        path = folder / CONTENT
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            functions = tuple(FunctionFile.of(entry) for entry in fields.pop("functions"))
            return cls(**{**fields, "classes": tuple(fields["classes"]), "functions": functions})
        except OSError as error:
            raise ExportError(
                f"{folder} is not a folder of exported functions: {CONTENT}: {error.strerror}; "
                "create one with 'stemseg export'"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportError(
                f"{path}: cannot be read ({error}); create the folder again with 'stemseg export'"
            ) from None

    def write(self, folder: Path) -> None:
        """Write the content into a folder, atomically."""
        partial = folder / f"{CONTENT}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / CONTENT)

    def file(self, function: str, shapes: Sequence[Sequence[int]]) -> FunctionFile | None:
        """Find the file for inputs of these shapes, batch first; None if there is none."""
        return next(
            (f for f in self.functions if f.function == function and f.takes(shapes)), None
        )


class ExportedFolder:
    """Functions in a folder written by ``stemseg export``."""

    def __init__(self, folder: Path) -> None:
        """Check the folder. Raises ExportError if it is not such a folder, or if its files are
        missing or have changed."""
        self.folder = folder
        self.content = Content.read(folder)
        for entry in self.content.functions:
            path = folder / entry.file
            if not path.is_file():
                raise ExportError(
                    f"{path} is missing; create the folder again with 'stemseg export'"
                )
            if sha256_of(path) != entry.sha256:
                raise ExportError(
                    f"{path} is not the file that {CONTENT} describes; create the folder again "
                    "with 'stemseg export'"
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
        accepted = [list(f.inputs) for f in self.content.functions if f.function == function]
        reason = f"takes inputs of {accepted[0]}" if accepted else "is not among its functions"
        raise ExportError(
            f"{self.folder}: '{function}' {reason}, not of {[list(shape) for shape in shapes]}; "
            "export it for these inputs ('stemseg export')"
        )


class CachedExports:
    """Functions of a network, exported to the local cache on first use."""

    precision = "float32"

    def __init__(self, network: nn.Module, name: str) -> None:
        """name: of the preset, for files and messages."""
        self._network, self._name = network, name
        self._fingerprint = fingerprint(network)
        self._folder = cache_folder() / f"{name}-{self._fingerprint[:16]}"

    def find(self, function: str, inputs: Tensors) -> Path:
        """See ``FunctionFiles``."""
        with _lock(self._folder):
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
            complete = all((self._folder / f.file).is_file() for f in content.functions)
            if content.fingerprint == self._fingerprint and complete:
                return content
        except ExportError:  # missing or damaged: exported again
            pass
        return describe(self._network, self._name, (), "float32", self._fingerprint)

    def _export(self, function: str, inputs: Tensors, number: int) -> FunctionFile:
        begin = time.perf_counter()
        log.info("exporting '%s' of %s; later starts use the exported file", function, self._name)
        path = self._folder / f"{function}_{number}.onnx"
        metadata = {"stemseg.config": self._name, "stemseg.fingerprint": self._fingerprint}
        written = export_function(self._network, function, inputs, path, metadata=metadata)
        log.info("exported '%s' in %.1f s: %s", function, time.perf_counter() - begin, path)
        return written


def describe(
    network: nn.Module,
    name: str,
    classes: Sequence[str],
    precision: str,
    identity: str | None = None,
    opset: int = OPSET,
    versions: dict[str, str] | None = None,
) -> Content:
    """Describe a network, without files. identity: its fingerprint, computed if None; versions: of
    other packages that affect the export."""
    known = identity or fingerprint(network)
    all_versions = {"torch": torch.__version__, **(versions or {})}
    return Content(name, tuple(classes), known, precision, opset, all_versions)


def fingerprint(network: nn.Module) -> str:
    """Compute a digest of everything that affects what a network computes: weights, structure,
    plain attributes of its modules, the code of its package, and the version of the exporter."""
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
    """Return ``$STEMSEG_CACHE``, or ``stemseg`` in the user's cache folder."""
    chosen = os.environ.get("STEMSEG_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stemseg"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock a folder of the cache, so that nodes that start at the same time export only once.
    Raises ExportError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "lock").open("a")
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be written ({error.strerror}); set STEMSEG_CACHE to another folder "
            "for exported networks, or use runtime.engine: torch, which needs none"
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
