"""No file that a user names can run code: checkpoints, run folders, backbones."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.models import mobilenet_v2
from typer.testing import CliRunner

from stemseg_ros.cli.main import app
from stemseg_ros.config import load_config
from stemseg_ros.errors import StemsegError
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.training import checkpoints, pretrained
from stemseg_ros.training.initial_weights import read_start

ROOT = Path(__file__).resolve().parent.parent
MARK = "code was run"


class Attack:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (MARK,)


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def network(path: Path, _: pytest.MonkeyPatch) -> None:
    load_network(load_config("lite", {"input.min_dim": 96}), path)


def start_of_training(path: Path, _: pytest.MonkeyPatch) -> None:
    read_start(path)


def resumed_training(path: Path, _: pytest.MonkeyPatch) -> None:
    run: Any = None  # is not looked at before the file
    checkpoints.restore(run, path, load_config("lite"))


def backbone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = SimpleNamespace(origin=str(path.parent / "__init__.py"))
    monkeypatch.setattr(pretrained, "find_spec", lambda name: origin)
    monkeypatch.setattr(pretrained, "WEIGHTS", path.name)
    pretrained.load_imagenet(mobilenet_v2())


def command(path: Path, _: pytest.MonkeyPatch) -> None:
    (video,) = (ROOT / "media").glob("*.mp4")
    options = ["--out", "out", "--device", "cpu", "--checkpoint", str(path)]
    done = CliRunner().invoke(app, ["run", str(video), *options])
    assert done.exit_code == 2, done.output
    raise StemsegError(done.stderr)


CASES = [
    *((read, write, ".pth") for read in (network, start_of_training, resumed_training, backbone)
      for write in (zipped, legacy, plain)),
    (network, zipped, ".safetensors"),
    (start_of_training, zipped, ".safetensors"),
    (command, zipped, ".pth"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("read", "write", "suffix"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[1].__name__}{case[2]}") for case in CASES],
)
def test_code_in_a_file_is_refused_and_does_not_run(
    read: Callable[[Path, pytest.MonkeyPatch], None],
    write: Callable[[object, Path], None],
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    write({"model": Attack(), "average": Attack(), "network": Attack()}, path)
    with pytest.raises(StemsegError, match=r"weights"):
        read(path, monkeypatch)
    assert not Path(MARK).exists()


def test_the_attack_works_where_nobody_guards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Attack()))
    assert Path(MARK).is_dir()


UNSAFE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "joblib.load", "marshal.loads", "exec", "eval",
}  # fmt: skip


def calls() -> list[tuple[Path, ast.Call, str]]:
    files = [
        p
        for name in ("stemseg_ros", "benchmarks", "tools", "launch")
        for p in (ROOT / name).rglob("*.py")
    ]
    return [
        (path.relative_to(ROOT), node, ast.unparse(node.func))
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_nothing_reads_pickles_without_restriction() -> None:
    found = calls()
    loads = [(path, node) for path, node, name in found if name == "torch.load"]
    assert len(loads) >= 3
    for path, node in loads:
        options = {item.arg: ast.unparse(item.value) for item in node.keywords}
        assert options.get("weights_only") == "True", f"{path}:{node.lineno}"
    numpy = [(p, n) for p, n, name in found if name in ("np.load", "numpy.load")]
    assert not [f"{p}:{n.lineno}" for p, n in numpy if "allow_pickle" in ast.unparse(n)]
    assert not [f"{path}:{node.lineno}" for path, node, name in found if name in UNSAFE]
