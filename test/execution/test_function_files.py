"""Folders of exported functions: matching files are found, errors name what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stemseg_ros.execution.function_files import CONTENT, ExportedFolder, describe
from stemseg_ros.execution.onnx_export import ExportError, export_function

pytestmark = pytest.mark.skipif(
    find_spec("onnxscript") is None, reason="the exporter is not installed"
)


class Sum(nn.Module):
    functions = ("add", "fail")

    def add(self, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        """Add (N, 2, L) and (N, 2, L)."""
        return (left + right,)

    def fail(self, left: Tensor) -> tuple[Tensor, ...]:
        """Branch on data, which cannot be exported."""
        return (left if float(left.sum()) > 0 else -left,)


PAIR = (torch.ones(2, 6), torch.ones(2, 6))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    network = Sum()
    written = export_function(
        network, "add", PAIR, folder / "add.onnx", metadata={"stemseg.config": "toy"}
    )
    content = describe(network, "toy", ("car",), "float32")
    for_folder = type(content)(
        content.config,
        content.classes,
        content.fingerprint,
        content.precision,
        content.opset,
        content.versions,
        (written,),
    )
    for_folder.write(folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_file_contains_its_metadata(exported: Path) -> None:
    import onnx

    model = onnx.load(exported / "add.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props}["stemseg.config"] == "toy"
    assert next(axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim) == 0


@pytest.mark.parametrize("length", [3, 6, 11])
def test_any_length_of_a_dynamic_axis_fits(folder: Path, length: int) -> None:
    one = torch.ones(2, length)
    assert ExportedFolder(folder).find("add", (one, one)) == folder / "add.onnx"


def test_fixed_export_only_takes_its_own_size(tmp_path: Path) -> None:
    written = export_function(Sum(), "add", PAIR, tmp_path / "add.onnx", metadata={}, fixed=True)
    assert written.takes([(5, 2, 6), (5, 2, 6)])
    assert not written.takes([(1, 2, 7), (1, 2, 7)])


@pytest.mark.parametrize(
    ("function", "inputs", "words"),
    [
        ("add", (torch.ones(2, 2, 2), torch.ones(2, 6)), ["'add'", "[1, 2, 2, 2]"]),
        ("add", (torch.ones(2, 6),), ["'add'", "[[1, 2, 6]]"]),
        ("multiply", PAIR, ["'multiply'", "not among"]),
    ],
    ids=["another shape", "too few", "unknown"],
)
def test_inputs_that_do_not_fit_are_refused(
    folder: Path, function: str, inputs: tuple[Tensor, ...], words: list[str]
) -> None:
    with pytest.raises(ExportError) as caught:
        ExportedFolder(folder).find(function, inputs)
    assert all(word in str(caught.value) for word in [*words, str(folder), "stemseg export"])


def change(key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / CONTENT).read_text())
        content[key] = value
        (folder / CONTENT).write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: (folder / CONTENT).unlink(),
            [CONTENT, "not a folder of exported functions"],
        ),
        (lambda folder: (folder / CONTENT).write_text("{"), [CONTENT, "cannot be read"]),
        (lambda folder: (folder / CONTENT).write_text("[1]"), [CONTENT, "cannot be read"]),
        (change("functions", [{}]), [CONTENT, "cannot be read"]),
        (change("functions", None), [CONTENT, "cannot be read"]),
        (lambda folder: (folder / "add.onnx").unlink(), ["add.onnx", "is missing"]),
        (lambda folder: (folder / "add.onnx").write_bytes(b"x"), ["add.onnx", "not the file"]),
    ],
    ids=["no json", "truncated", "a list", "no entry", "null", "missing", "foreign"],
)
def test_damaged_folder_is_refused(
    folder: Path, damage: Callable[[Path], None], words: list[str]
) -> None:
    damage(folder)
    with pytest.raises(ExportError) as caught:
        ExportedFolder(folder)
    assert all(word in str(caught.value) for word in [*words, "stemseg export"])


def test_error_names_the_function_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'fail' cannot be exported as ONNX"):
        export_function(Sum(), "fail", (torch.ones(2, 6),), tmp_path / "fail.onnx", metadata={})
    assert not list(tmp_path.iterdir())
