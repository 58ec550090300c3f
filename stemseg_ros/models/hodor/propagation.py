"""Masks from frame to frame: the state of one stream (Sec. 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.hodor.letterbox import (
    content_cells,
    letterbox_image,
    letterbox_masks,
    place_image,
    to_image_size,
)
from stemseg_ros.models.hodor.memory import Described, Memory
from stemseg_ros.models.hodor.regions import (
    STRIDE,
    reduce_by_8,
    regions_from_given,
    regions_from_predicted,
)
from stemseg_ros.models.hodor.rules import PropagationRules
from stemseg_ros.models.hodor.settings import BACKGROUNDS, Settings
from stemseg_ros.models.hodor.sights import Sight, limit_to_reach, updated_sights
from stemseg_ros.tracker import Call

OTHERS = BACKGROUNDS + 1
"""Channels before the first object: the catch-all and the background cells."""
GivenMasks = Mapping[int, npt.NDArray[np.bool_]]
"""bool (H, W) by track id."""
Result = TypeVar("Result")
Calls = Generator[Call, tuple[Tensor, ...], Result]
"""Yields calls of the network, is sent their outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Propagated:
    """What was found in one frame."""

    ids: tuple[int, ...]
    """Objects in ascending order; empty before the first one."""
    labels: npt.NDArray[np.int32]
    """int32 (H, W): id of each pixel of the image, 0 background; before the first object perhaps
    of another size (``propagation.empty_frames``)."""
    probabilities: Tensor | None
    """(I, H, W) in [0, 1] at image size; None before the second frame of an object."""
    logits: Tensor | None
    """(10 + I, h, w) at stride 4, before given masks are set."""
    regions: Tensor | None
    """(9 + I, h/2, w/2) in [0, 1] that the frame's descriptors were made from."""


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A frame as the network sees it."""

    geometry: Letterbox
    fine: Tensor
    """(C, h, w) at stride 4."""
    coarse: Tensor
    """(C, h/2, w/2) at stride 8."""
    given: dict[int, Tensor]
    """Masks (H', W') of new objects at padded input size, by ascending id."""


@dataclass(slots=True, eq=False)
class State:
    """What is known before a frame."""

    memory: Memory = field(default_factory=Memory)
    ids: tuple[int, ...] = ()
    """Objects that are followed, in ascending order."""
    index: int = 0
    """Position of the frame in the stream."""
    previous: dict[int, Tensor] = field(default_factory=dict)
    """(h, w) at stride 8 by id: where each object was one frame ago."""
    sights: dict[int, Sight] = field(default_factory=dict)
    """Where each object was last seen, by id."""

    def copy(self) -> State:
        """A state to come back to."""
        return State(
            self.memory.copy(), self.ids, self.index, dict(self.previous), dict(self.sights)
        )

    def forget(self, ids: Collection[int]) -> None:
        """Follow some objects no longer."""
        self.ids = tuple(n for n in self.ids if n not in ids)
        if self.ids:
            self.memory.forget(ids)
        else:
            self.memory = Memory()
        self.previous = {n: mask for n, mask in self.previous.items() if n not in ids}
        self.sights = {n: sight for n, sight in self.sights.items() if n not in ids}


class Propagator:
    """Objects shown by masks, followed through a stream of images of one size."""

    def __init__(self, config: Settings, device: torch.device) -> None:
        self._device = device
        self.configure(config)
        self.state = State()

    def configure(self, config: Settings) -> None:
        """Use other settings from the next frame on, of the same network."""
        self.config = config
        self._rules = PropagationRules.of(config.propagation)

    def step(self, image: npt.NDArray[np.uint8], given: GivenMasks) -> Calls[Propagated]:
        """Follow the objects into the next frame, where new ones may be given.

        image: uint8 (H, W, 3), BGR; given: masks by id (>= 1, not in use).
        Raises ValueError for a mask of another size, without pixels, or with an id in use.
        """
        self._check(image, given)
        geometry = place_image((image.shape[0], image.shape[1]), self.config.input)
        if self.state.ids or given:
            pixels = torch.from_numpy(image.copy()).to(self._device)
            placed = letterbox_image(pixels, geometry, self.config.input)
            fine, coarse = yield Call("encode", (placed,))
            seen = _Seen(geometry, fine, coarse, self._place_given(given, geometry))
            result = yield from self._follow(seen, given)
        else:
            result = self._nothing(geometry)
        self.state.index += 1
        self.state.memory.drop_before(self.state.index - self.config.propagation.window)
        return result

    def _follow(self, seen: _Seen, given: GivenMasks) -> Calls[Propagated]:
        if self.state.ids:
            return (yield from self._later_frame(seen))
        if seen.given:
            return (yield from self._first_frame(seen, given))
        return self._nothing(seen.geometry)

    def _nothing(self, geometry: Letterbox) -> Propagated:
        size = geometry.image_size if self._rules.empty_at_image_size else geometry.padded_size
        return Propagated((), np.zeros(size, np.int32), None, None, None)

    def _check(self, image: npt.NDArray[np.uint8], given: GivenMasks) -> None:
        for track_id, mask in given.items():
            if mask.shape != image.shape[:2]:
                raise ValueError(
                    f"mask of object {track_id} is {mask.shape[1]}x{mask.shape[0]} pixels, its "
                    f"image {image.shape[1]}x{image.shape[0]}"
                )
            if not mask.any():
                raise ValueError(f"mask of object {track_id} is empty")
            if track_id < 1 or track_id in self.state.ids:
                raise ValueError(f"object id {track_id} is below 1 or in use")

    def _place_given(self, given: GivenMasks, geometry: Letterbox) -> dict[int, Tensor]:
        """Masks (H', W') at padded input size, by ascending id, without those that are
        dropped."""
        ids = sorted(given)
        if not ids:
            return {}
        stack = torch.from_numpy(np.stack([given[track_id] for track_id in ids]))
        placed = letterbox_masks(stack.to(self._device), geometry)
        keep = (reduce_by_8(placed) > 0.5).flatten(1).any(1)
        if self._rules.describes_tiny:
            keep = torch.ones_like(keep)
        return {n: mask for n, mask, k in zip(ids, placed, keep.tolist(), strict=True) if k}

    def _first_frame(self, seen: _Seen, given: GivenMasks) -> Calls[Propagated]:
        self.state.ids = tuple(seen.given)
        stack = torch.stack(list(seen.given.values()))
        regions = regions_from_given(stack, self._content(seen.geometry, 1))
        described = yield from self._describe(seen, regions, self.state.ids)
        self._keep(described, regions)
        self._anchor(described)
        if self._rules.first_as_given:
            best = np.zeros(seen.geometry.image_size, np.int32)
            for number, track_id in enumerate(self.state.ids, 1):
                best[given[track_id]] = number
        else:
            soft = to_image_size(stack, seen.geometry)
            best = F.pad(soft, (0, 0, 0, 0, 1, 0)).argmax(0).cpu().numpy()
        return Propagated(self.state.ids, _labels(best, self.state.ids), None, None, regions)

    def _later_frame(self, seen: _Seen) -> Calls[Propagated]:
        if seen.given:
            yield from self._join(seen)
        geometry, given = seen.geometry, seen.given
        ids = tuple(sorted({*self.state.ids, *given}))
        inputs: tuple[Tensor, ...] = (
            seen.fine,
            seen.coarse,
            *self.state.memory.history(ids),
            self._cells(geometry),
        )
        if self.config.network.previous_masks:
            inputs = (*inputs, self._previous_regions(ids, seen))
        (logits,) = yield Call("decode", inputs)
        logits = self._limit(logits.float(), ids)
        enlarged = _enlarge(logits).softmax(0)
        inner = _enlarge(logits.softmax(0))
        for probability in (enlarged, inner):
            _set_given(probability, given, ids)
        masks = reduce_by_8(inner[OTHERS:])
        regions = regions_from_predicted(masks, self._content(geometry, STRIDE))
        self.state.ids = ids
        self._keep((yield from self._describe(seen, regions, ids)), regions)
        output = to_image_size(enlarged, geometry)
        labels = _labels(self._choose(output), ids)
        return Propagated(ids, labels, output[OTHERS:], logits, regions)

    def _join(self, seen: _Seen) -> Calls[None]:
        """Describe new objects, all else background, or known ones beside them."""
        stack = torch.stack(list(seen.given.values()))
        names = tuple(seen.given)
        regions = regions_from_given(stack, self._content(seen.geometry, 1))
        if self._rules.known_beside_new:
            known = torch.stack([self.state.previous[n] for n in self.state.ids])
            objects = torch.cat(
                (regions[BACKGROUNDS:], known * (1 - regions[BACKGROUNDS:].amax(0)))
            )
            regions = regions_from_predicted(objects, self._content(seen.geometry, STRIDE))
            names = (*names, *self.state.ids)
        described = yield from self._describe(seen, regions, names)
        new = Described(self.state.index, None, {n: described.objects[n] for n in seen.given})
        self.state.memory.put(new)
        self._anchor(new)

    def _describe(self, seen: _Seen, regions: Tensor, ids: tuple[int, ...]) -> Calls[Described]:
        inputs = (seen.coarse, regions, self._cells(seen.geometry))
        (descriptors,) = yield Call("describe", inputs)
        objects = dict(zip(ids, descriptors[BACKGROUNDS:], strict=True))
        return Described(self.state.index, descriptors[:BACKGROUNDS], objects)

    def _keep(self, described: Described, regions: Tensor) -> None:
        self.state.memory.put(described)
        masks = dict(zip(self.state.ids, regions[BACKGROUNDS:], strict=True))
        self.state.previous = masks
        self.state.sights = updated_sights(self.state.sights, masks, self.state.index)

    def _limit(self, logits: Tensor, ids: tuple[int, ...]) -> Tensor:
        """(10 + I, h, w): objects only where they can be."""
        reach, state = self.config.propagation.reach, self.state
        if not reach:
            return logits
        objects = limit_to_reach(logits[OTHERS:], ids, state.sights, state.index, reach)
        return torch.cat((logits[:OTHERS], objects))

    def _previous_regions(self, ids: tuple[int, ...], seen: _Seen) -> Tensor:
        """(9 + I, h, w): where everything was one frame ago, new objects as they are given."""
        masks = self.state.previous | {n: reduce_by_8(mask) for n, mask in seen.given.items()}
        soft = torch.stack([masks[n] for n in ids])
        return regions_from_predicted(soft, self._content(seen.geometry, STRIDE))

    def _anchor(self, described: Described) -> None:
        if self._rules.keeps_given:
            self.state.memory.anchor(described)

    def _cells(self, geometry: Letterbox) -> Tensor:
        """int64 (2,): rows and columns of the stride-8 map that count."""
        return torch.tensor(self._content(geometry, STRIDE), device=self._device)

    def _content(self, geometry: Letterbox, stride: int) -> tuple[int, int]:
        """Rows and columns of a map that count; all, or those without padding."""
        if self._rules.masks_padding:
            return content_cells(geometry, stride)
        height, width = (side // stride for side in geometry.padded_size)
        return height, width

    def _choose(self, probabilities: Tensor) -> npt.NDArray[np.integer]:
        """(H, W): number of the object (from 1) that wins each pixel, 0 background."""
        if self._rules.joint_background:
            background = probabilities[:OTHERS].sum(0, keepdim=True)
            return torch.cat((background, probabilities[OTHERS:])).argmax(0).cpu().numpy()
        return (probabilities.argmax(0) - OTHERS + 1).clamp(min=0).cpu().numpy()


def _labels(numbers: npt.NDArray[np.integer], ids: tuple[int, ...]) -> npt.NDArray[np.int32]:
    labels: npt.NDArray[np.int32] = np.array([0, *ids], np.int32)[numbers]
    return labels


def _enlarge(maps: Tensor) -> Tensor:
    """(N, h, w) at stride 4 to input size."""
    return F.interpolate(maps[None], scale_factor=4, mode="bilinear", align_corners=False)[0]


def _set_given(probability: Tensor, masks: Mapping[int, Tensor], ids: tuple[int, ...]) -> None:
    """Write given masks into the probabilities (10 + I, H', W'), in place; what a new object had
    predicted elsewhere is lost, as in the released code."""
    for mask in masks.values():
        probability *= 1 - mask
    for track_id, mask in masks.items():
        probability[OTHERS + ids.index(track_id)] = mask
