"""What a file of weights holds, by its content: pickles of torch, safetensors, and what is taken
for them by mistake.

No pickle is ever executed: torch's restricted unpickler reads tensors and plain containers,
nothing else.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from stemseg_ros.errors import StemsegError
from stemseg_ros.media.mistaken_files import describe_mistaken

STATE_KEYS = ("model", "state_dict")
"""Under which checkpoints keep their state dict; weights alone are published without a key."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of all keys that DistributedDataParallel and torch.compile leave."""
_SAFETENSORS = ".safetensors"
_HEAD = 512
"""Bytes that tell what a file is."""
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
"""How files of torch.save begin, now and in the older format."""
_BLOCKED = re.compile(r"GLOBAL ([\w.]+)")


class CheckpointError(StemsegError):
    """A checkpoint cannot be used; the message names the file and the key or the reason."""


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a .safetensors file, or of what torch saved: bare or under one of
    ``STATE_KEYS``. Raises CheckpointError."""
    return state_of(read_content(path), path)


def read_content(path: Path) -> object:
    """Whatever tensors and plain containers a file of weights holds. Raises CheckpointError."""
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint '{path}' {what}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise CheckpointError(f"checkpoint '{path}' is not readable: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: is empty")
    _refuse_mistaken(path, head)
    return _read_safetensors(path) if path.suffix == _SAFETENSORS else _read_pickle(path, head)


def state_of(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in ``content`` of a file, without the prefixes of wrappers. Raises
    CheckpointError."""
    if isinstance(content, Mapping):
        for key in STATE_KEYS:
            if key in content and not isinstance(content[key], Tensor):
                return checked_state(content[key], path)
        if content and not any(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(
                f"{path}: holds no state dict, neither bare nor under the key "
                f"{' or '.join(map(repr, STATE_KEYS))}, but: "
                f"{', '.join(map(repr, list(content)[:5]))}"
            )
    return checked_state(content, path)


def checked_state(content: object, path: Path) -> dict[str, Tensor]:
    """``content`` of a file, which must be tensors by name, without the prefixes of wrappers.
    Raises CheckpointError."""
    if not isinstance(content, Mapping) or not content:
        kind = type(content).__name__
        raise CheckpointError(f"{path}: holds no state dict, but {kind}")
    for key, value in content.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path}: key {key!r} of the state dict is no string")
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: key '{key}' holds {type(value).__name__}, not a tensor"
            )
    state = dict(content)
    while prefix := next((w for w in WRAPPERS if all(key.startswith(w) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _refuse_mistaken(path: Path, head: bytes) -> None:
    """Raises CheckpointError that says what a file is instead of what its name says."""
    if mistaken := describe_mistaken(head):
        raise CheckpointError(f"{path}: {mistaken}")
    named = path.suffix == _SAFETENSORS
    if not named and _is_safetensors(head, path.stat().st_size):
        raise CheckpointError(
            f"{path}: a safetensors file under another name; rename it to "
            f"'{path.with_suffix(_SAFETENSORS).name}'"
        )
    if named and head.startswith((_ZIP, b"\x80\x02")):
        raise CheckpointError(
            f"{path}: a file of torch.save under another name; rename it to "
            f"'{path.with_suffix('.pth').name}'"
        )


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file starts with the length of a header in JSON, and that header."""
    if len(head) < 10:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return head[8:9] == b"{" and 8 + length <= size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def _read_pickle(path: Path, head: bytes) -> object:
    if not head.startswith((_ZIP, _PICKLE)):
        raise CheckpointError(
            f"{path}: holds no weights: expected a file of torch.save (.pth) or a .safetensors"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text recommends to read it unprotected
        raise CheckpointError(f"{path}: {_unpickling(path, error)}") from None
    except Exception:  # damaged bytes lead the unpickler to raise almost anything
        raise CheckpointError(f"{path}: a file of torch.save, cut off or damaged") from None


def _unpickling(path: Path, error: pickle.UnpicklingError) -> str:
    """What the restricted unpickler met, and how to save a file without it."""
    names: list[str] = []
    with suppress(Exception):  # of files in the older format, and of damaged ones
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    names = names or _BLOCKED.findall(str(error))
    if not names:
        return "refused, since reading it would run code, or it is damaged"
    clean = path.with_name(f"{path.stem}_clean.pth")
    code = (
        f"import torch; content = torch.load({json.dumps(str(path))}, map_location='cpu', "
        "weights_only=False); torch.save({'model': content['model']}, "
        f"{json.dumps(str(clean))})"
    )
    return (
        f"refused, since reading it would run code: besides tensors it holds {', '.join(names)}. "
        "If you trust its source, save its weights alone (under their key, 'model' as a rule): "
        f"python3 -c {json.dumps(code)}"
    )
