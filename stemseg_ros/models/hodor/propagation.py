"""Propagation of masks from frame to frame, with the state of one stream (Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.hodor.label_map import label_pixels
from stemseg_ros.models.hodor.letterbox import (
    content_cells,
    letterbox,
    letterbox_image,
    letterbox_masks,
    resize_to_image,
)
from stemseg_ros.models.hodor.memory import FrameDescriptors
from stemseg_ros.models.hodor.motion import Motion, shrink
from stemseg_ros.models.hodor.presence import find_absent, keep_from_present
from stemseg_ros.models.hodor.regions import (
    GRID_STRIDE,
    STRIDE,
    average_by_4,
    downsample_by_8,
    regions_from_given,
    regions_from_predicted,
)
from stemseg_ros.models.hodor.rules import PropagationRules
from stemseg_ros.models.hodor.settings import BACKGROUNDS, Settings
from stemseg_ros.models.hodor.sightings import limit_to_reach, update_sightings
from stemseg_ros.models.hodor.state import State
from stemseg_ros.tracker import Call

FIRST_OBJECT = BACKGROUNDS + 1
"""Channel of the first object, after the catch-all and the background cells."""
GivenMasks = Mapping[int, npt.NDArray[np.bool_]]
"""bool (H, W) by track id."""
Result = TypeVar("Result")
Calls = Generator[Call, tuple[Tensor, ...], Result]
"""A generator that yields calls of the network and is sent their outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class PropagationResult:
    """Masks found in one frame."""

    ids: tuple[int, ...]
    """Ids of the objects, ascending; empty before the first object."""
    labels: npt.NDArray[np.int32]
    """int32 (H, W): id of each pixel of the image, 0 for background; before the first object the
    size may differ (``propagation.empty_frames``)."""
    confidence: npt.NDArray[np.float32] | None
    """float32 (H, W) in [0, 1]: probability of the object of each pixel, 0 for background; None
    until the frame after the first object was given."""
    probabilities: Tensor | None
    """(I, H', W') in [0, 1] at padded input size, with given masks; None as before."""
    logits: Tensor | None
    """(10 + I, h, w) at stride 4, before given masks are written in."""
    regions: Tensor | None
    """(9 + I, h/2, w/2) in [0, 1], from which the frame's descriptors were computed."""


@dataclass(frozen=True, slots=True, eq=False)
class _EncodedFrame:
    """Encoder output for one frame, and the masks given in it."""

    geometry: Letterbox
    fine: Tensor
    """(C, h, w) at stride 4."""
    coarse: Tensor
    """(C, h/2, w/2) at stride 8."""
    given: dict[int, Tensor]
    """Masks (H', W') of new objects at padded input size, by ascending id."""


class Propagator:
    """Propagation of given masks through a stream of images of one size."""

    def __init__(self, config: Settings, device: torch.device) -> None:
        self._device = device
        self.configure(config)
        self.state = State()

    def configure(self, config: Settings) -> None:
        """Apply changed settings from the next frame on; the network stays the same."""
        self.config = config
        self._rules = PropagationRules.of(config.propagation)

    def step(self, image: npt.NDArray[np.uint8], given: GivenMasks) -> Calls[PropagationResult]:
        """Propagate the objects to the next frame, in which new ones may be given.

        image: uint8 (H, W, 3), BGR; given: masks by id (>= 1, not in use).
        Raises ValueError for a mask of another size, an empty mask, and an id in use.
        """
        self._check(image, given)
        geometry = letterbox((image.shape[0], image.shape[1]), self.config.input)
        if self.state.ids or given:
            pixels = torch.from_numpy(image.copy()).to(self._device)
            inputs = letterbox_image(pixels, geometry, self.config.input)
            self._move(image, geometry)
            fine, coarse = yield Call("encode", (inputs,))
            encoded = _EncodedFrame(geometry, fine, coarse, self._letterbox_given(given, geometry))
            result = yield from self._follow(encoded, given)
        else:
            result = self._empty_result(geometry)
        self.state.index += 1
        self.state.memory.drop_before(self.state.index - self.config.propagation.window)
        return result

    def _move(self, image: npt.NDArray[np.uint8], geometry: Letterbox) -> None:
        """Move what is known of the objects from the previous frame to this one."""
        state, earlier = self.state, self.state.grey
        state.grey = shrink(image, geometry) if self.config.propagation.motion else None
        if state.ids and state.grey is not None and earlier is not None:
            state.move(Motion(state.grey, earlier, self._device))

    def _follow(self, encoded: _EncodedFrame, given: GivenMasks) -> Calls[PropagationResult]:
        if self.state.ids:
            return (yield from self._later_frame(encoded))
        if encoded.given:
            return (yield from self._first_frame(encoded, given))
        return self._empty_result(encoded.geometry)

    def _empty_result(self, geometry: Letterbox) -> PropagationResult:
        size = geometry.image_size if self._rules.empty_at_image_size else geometry.padded_size
        return PropagationResult((), np.zeros(size, np.int32), None, None, None, None)

    def _check(self, image: npt.NDArray[np.uint8], given: GivenMasks) -> None:
        for track_id, mask in given.items():
            if mask.shape != image.shape[:2]:
                raise ValueError(
                    f"mask of object {track_id} is {mask.shape[1]}x{mask.shape[0]} pixels, the "
                    f"image is {image.shape[1]}x{image.shape[0]}"
                )
            if not mask.any():
                raise ValueError(f"mask of object {track_id} is empty")
            if track_id < 1 or track_id in self.state.ids:
                raise ValueError(f"object id {track_id} is below 1 or in use")

    def _letterbox_given(self, given: GivenMasks, geometry: Letterbox) -> dict[int, Tensor]:
        """Letterbox given masks to (H', W') at padded input size, by ascending id; drops those
        that are too small under ``tiny_reference: reference``."""
        ids = sorted(given)
        if not ids:
            return {}
        stack = torch.from_numpy(np.stack([given[track_id] for track_id in ids]))
        resized = letterbox_masks(stack.to(self._device), geometry)
        keep = (downsample_by_8(resized) > 0.5).flatten(1).any(1)
        if self._rules.describes_tiny:
            keep = torch.ones_like(keep)
        return {n: mask for n, mask, k in zip(ids, resized, keep.tolist(), strict=True) if k}

    def _first_frame(self, encoded: _EncodedFrame, given: GivenMasks) -> Calls[PropagationResult]:
        self.state.ids = tuple(encoded.given)
        stack = torch.stack(list(encoded.given.values()))
        regions = regions_from_given(stack, self._content_cells(encoded.geometry, 1))
        described = yield from self._describe(encoded, regions, self.state.ids)
        self._store(described, regions)
        if self.config.network.refinement:
            self._keep_outlines(encoded, average_by_4(stack))
        self._anchor(described)
        if self._rules.first_as_given:
            best = np.zeros(encoded.geometry.image_size, np.int32)
            for number, track_id in enumerate(self.state.ids, 1):
                best[given[track_id]] = number
        else:
            soft = resize_to_image(stack, encoded.geometry)
            best = _argmax(F.pad(soft, (0, 0, 0, 0, 1, 0))).cpu().numpy()
        return PropagationResult(
            self.state.ids, _labels(best, self.state.ids), None, None, None, regions
        )

    def _later_frame(self, encoded: _EncodedFrame) -> Calls[PropagationResult]:
        if encoded.given:
            yield from self._add_objects(encoded)
        geometry, given = encoded.geometry, encoded.given
        ids = tuple(sorted({*self.state.ids, *given}))
        inputs: tuple[Tensor, ...] = (
            encoded.fine,
            encoded.coarse,
            *self.state.memory.history(ids),
            self._content_tensor(geometry),
        )
        if self.config.network.previous_masks:
            inputs = (*inputs, self._previous_regions(ids, encoded))
        if self.config.network.refinement:
            inputs = (*inputs, *self._previous_outlines(ids, encoded))
        (logits,) = yield Call("decode", inputs)
        logits = self._limit(logits.float(), ids)
        soft = logits.softmax(0)
        masks = _to_stride_8(soft, given, ids)
        regions = regions_from_predicted(masks, self._content_cells(geometry, STRIDE))
        self.state.ids = ids
        described = yield from self._describe(encoded, regions, ids)
        hidden = self._store_present(described, regions, given)
        probabilities = _upsample(logits).softmax(0)
        _set_given(probabilities, given, ids)
        for track_id in hidden:
            probabilities[FIRST_OBJECT + ids.index(track_id)] = 0
        if self.config.network.refinement:
            _set_given(soft, {n: average_by_4(mask) for n, mask in given.items()}, ids)
            self._keep_outlines(encoded, soft[FIRST_OBJECT:])
        background = self._join_backgrounds(probabilities[:FIRST_OBJECT])
        objects = probabilities[FIRST_OBJECT:]
        found = label_pixels(background, objects, geometry)
        return PropagationResult(
            ids,
            _labels(found.numbers.cpu().numpy(), ids),
            found.confidence.cpu().numpy(),
            objects,
            logits,
            regions,
        )

    def _add_objects(self, encoded: _EncodedFrame) -> Calls[None]:
        """Compute the descriptors of new objects; known ones count as background, or as objects
        beside them (``new_object_context``)."""
        stack = torch.stack(list(encoded.given.values()))
        ids = tuple(encoded.given)
        regions = regions_from_given(stack, self._content_cells(encoded.geometry, 1))
        if self._rules.known_beside_new:
            known = torch.stack([self.state.previous[n] for n in self.state.ids])
            objects = torch.cat(
                (regions[BACKGROUNDS:], known * (1 - regions[BACKGROUNDS:].amax(0)))
            )
            regions = regions_from_predicted(
                objects, self._content_cells(encoded.geometry, STRIDE)
            )
            ids = (*ids, *self.state.ids)
        described = yield from self._describe(encoded, regions, ids)
        new = FrameDescriptors(
            self.state.index, None, {n: described.objects[n] for n in encoded.given}
        )
        self.state.memory.put(new)
        self._anchor(new)

    def _describe(
        self, encoded: _EncodedFrame, regions: Tensor, ids: tuple[int, ...]
    ) -> Calls[FrameDescriptors]:
        inputs = (encoded.coarse, regions, self._content_tensor(encoded.geometry))
        (descriptors,) = yield Call("describe", inputs)
        objects = dict(zip(ids, descriptors[BACKGROUNDS:], strict=True))
        return FrameDescriptors(self.state.index, descriptors[:BACKGROUNDS], objects)

    def _store(self, described: FrameDescriptors, regions: Tensor) -> None:
        self.state.memory.put(described)
        masks = dict(zip(self.state.ids, regions[BACKGROUNDS:], strict=True))
        self.state.previous = masks
        self.state.sightings = update_sightings(
            self.state.sightings, masks, self.state.index, self.state.absent
        )

    def _store_present(
        self, described: FrameDescriptors, regions: Tensor, given: Collection[int]
    ) -> frozenset[int]:
        """Store a frame without what absent objects cover; returns those that were absent in the
        previous frame, too."""
        presence, before = self.config.propagation.presence, self.state.absent
        absent: frozenset[int] = frozenset()
        if presence:
            masks = dict(zip(self.state.ids, regions[BACKGROUNDS:], strict=True))
            likeness = self.state.memory.likeness(described)
            sighted = self.state.sightings
            absent = find_absent(masks, likeness, before, sighted, presence).difference(given)
        self.state.absent = absent
        self._store(described.without(absent), regions)
        return absent & before

    def _keep_outlines(self, encoded: _EncodedFrame, masks: Tensor) -> None:
        self.state.outlines = dict(zip(self.state.ids, masks, strict=True))
        self.state.fine = encoded.fine

    def _limit(self, logits: Tensor, ids: tuple[int, ...]) -> Tensor:
        """Lower the logits (10 + I, h, w) of objects where they cannot be: out of reach, or absent
        where others were."""
        reach, state, objects = self.config.propagation.reach, self.state, logits[FIRST_OBJECT:]
        if not reach and not state.absent:
            return logits
        if reach:
            objects = limit_to_reach(objects, ids, state.sightings, state.index, reach)
        objects = keep_from_present(objects, ids, state.absent, state.previous)
        return torch.cat((logits[:FIRST_OBJECT], objects))

    def _previous_regions(self, ids: tuple[int, ...], encoded: _EncodedFrame) -> Tensor:
        """Return the regions (9 + I, h, w) of the previous frame, with new objects as given."""
        masks = self.state.previous | {
            n: downsample_by_8(mask) for n, mask in encoded.given.items()
        }
        soft = torch.stack([masks[n] for n in ids])
        return regions_from_predicted(soft, self._content_cells(encoded.geometry, STRIDE))

    def _previous_outlines(
        self, ids: tuple[int, ...], encoded: _EncodedFrame
    ) -> tuple[Tensor, Tensor]:
        """Return the masks (I, h, w) at stride 4 and the features (C, h, w) of the previous frame;
        new objects as given, whose logits are not used."""
        masks = self.state.outlines | {n: average_by_4(mask) for n, mask in encoded.given.items()}
        fine = encoded.fine if self.state.fine is None else self.state.fine
        return torch.stack([masks[n] for n in ids]), fine

    def _anchor(self, described: FrameDescriptors) -> None:
        if self._rules.keeps_given:
            self.state.memory.anchor(described)

    def _content_tensor(self, geometry: Letterbox) -> Tensor:
        """Return the content size of the stride-8 map as int64 (2,)."""
        return torch.tensor(self._content_cells(geometry, STRIDE), device=self._device)

    def _content_cells(self, geometry: Letterbox, stride: int) -> tuple[int, int]:
        """Count the rows and columns of a map that are used: all, or those without padding."""
        if self._rules.masks_padding:
            return content_cells(geometry, stride)
        height, width = (side // stride for side in geometry.padded_size)
        return height, width

    def _join_backgrounds(self, background: Tensor) -> Tensor:
        """Add up the backgrounds (10, H, W), if they compete with objects as one: (1, H, W)."""
        return background.sum(0, keepdim=True) if self._rules.joint_background else background


def _argmax(maps: Tensor) -> Tensor:
    """Return the index of the largest of N maps at each pixel: (N, H, W) -> int64 (H, W); the
    first of equal ones. ``Tensor.argmax`` takes ten times as long on a CPU."""
    return maps.max(0).indices


def _labels(numbers: npt.NDArray[np.integer], ids: tuple[int, ...]) -> npt.NDArray[np.int32]:
    labels: npt.NDArray[np.int32] = np.array([0, *ids], np.int32)[numbers]
    return labels


def _upsample(maps: Tensor) -> Tensor:
    """Upsample (N, h, w) maps from stride 4 to input size."""
    return F.interpolate(
        maps[None], scale_factor=GRID_STRIDE, mode="bilinear", align_corners=False
    )[0]


def _to_stride_8(soft: Tensor, given: Mapping[int, Tensor], ids: tuple[int, ...]) -> Tensor:
    """Return the objects (I, h/2, w/2) of probabilities (10 + I, h, w) at stride 4, with given
    masks written in at input size."""
    if not given:  # the same as below: upsampling and downsampling cancel out
        return F.avg_pool2d(soft[FIRST_OBJECT:], STRIDE // GRID_STRIDE)
    enlarged = _upsample(soft)
    _set_given(enlarged, given, ids)
    return downsample_by_8(enlarged[FIRST_OBJECT:])


def _set_given(probability: Tensor, masks: Mapping[int, Tensor], ids: tuple[int, ...]) -> None:
    """Write given masks into the probabilities (10 + I, H', W'), in place; predictions of a new
    object outside its given mask are discarded, as in the released code."""
    for mask in masks.values():
        probability *= 1 - mask
    for track_id, mask in masks.items():
        probability[FIRST_OBJECT + ids.index(track_id)] = mask
