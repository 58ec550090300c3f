"""Masks from frame to frame: the state of one stream (Sec. 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.regions import (
    STRIDE,
    reduce_by_8,
    regions_from_given,
    regions_from_predicted,
)
from stemseg_ros.models.hodor.settings import BACKGROUNDS

OTHERS = BACKGROUNDS + 1
"""Channels before the first object: the catch-all and the background cells."""


@dataclass(frozen=True, slots=True, eq=False)
class Propagated:
    """What was found in one frame."""

    ids: tuple[int, ...]
    """Objects in ascending order; empty before the first one."""
    labels: npt.NDArray[np.int32]
    """int32 (H, W): id of each pixel of the image, 0 background."""
    probabilities: Tensor | None
    """(I, H, W) in [0, 1] at image size; None before the second frame of an object."""
    logits: Tensor | None
    """(10 + I, h, w) at stride 4, before given masks are set."""
    regions: Tensor | None
    """(9 + I, h/2, w/2) in [0, 1] that the frame's descriptors were made from."""


class Propagator:
    """Objects shown by masks, followed through a stream of images of one size."""

    def __init__(self, network: Hodor) -> None:
        self._network, self._config = network, network.config
        self.memory = Memory()
        self.ids: tuple[int, ...] = ()
        self._index = 0
        self._previous: dict[int, Tensor] = {}

    @torch.inference_mode()
    def step(
        self, image: npt.NDArray[np.uint8], given: Mapping[int, npt.NDArray[np.bool_]]
    ) -> Propagated:
        """Follow the objects into the next frame, where new ones may be given.

        image: uint8 (H, W, 3), BGR; given: bool (H, W) masks by id (>= 1, not in use).
        Raises ValueError for a mask of another size, without pixels, or with an id in use.
        """
        self._check(image, given)
        geometry = place_image((image.shape[0], image.shape[1]), self._config.input)
        pixels = letterbox_image(torch.from_numpy(image), geometry, self._config.input)
        fine, coarse = self._network.encode(pixels[None])
        masks = self._place_given(given, geometry)
        if self.ids:
            result = self._later_frame(fine, coarse, masks, geometry)
        elif masks:
            result = self._first_frame(coarse, masks, given, geometry)
        else:
            result = Propagated((), np.zeros(geometry.image_size, np.int32), None, None, None)
        self._index += 1
        self.memory.drop_before(self._index - self._config.propagation.window)
        return result

    def _check(
        self, image: npt.NDArray[np.uint8], given: Mapping[int, npt.NDArray[np.bool_]]
    ) -> None:
        for track_id, mask in given.items():
            if mask.shape != image.shape[:2]:
                raise ValueError(
                    f"mask of object {track_id} is {mask.shape[1]}x{mask.shape[0]} pixels, its "
                    f"image {image.shape[1]}x{image.shape[0]}"
                )
            if not mask.any():
                raise ValueError(f"mask of object {track_id} is empty")
            if track_id < 1 or track_id in self.ids:
                raise ValueError(f"object id {track_id} is below 1 or in use")

    def _place_given(
        self, given: Mapping[int, npt.NDArray[np.bool_]], geometry: Letterbox
    ) -> dict[int, Tensor]:
        """Masks (H', W') at padded input size, by ascending id, without those that are
        dropped."""
        ids = sorted(given)
        if not ids:
            return {}
        stack = torch.from_numpy(np.stack([given[track_id] for track_id in ids]))
        placed = letterbox_masks(stack, geometry)
        keep = (reduce_by_8(placed) > 0.5).flatten(1).any(1)
        if self._config.propagation.corrected("tiny_reference"):
            keep = torch.ones_like(keep)
        return {n: mask for n, mask, k in zip(ids, placed, keep.tolist(), strict=True) if k}

    def _first_frame(
        self,
        coarse: Tensor,
        masks: dict[int, Tensor],
        given: Mapping[int, npt.NDArray[np.bool_]],
        geometry: Letterbox,
    ) -> Propagated:
        self.ids = tuple(masks)
        stack = torch.stack(list(masks.values()))
        regions = regions_from_given(stack, self._content(geometry, 1))
        described = self._describe(coarse, regions, self.ids, geometry)
        self.memory.put(described)
        self._anchor(described)
        if self._config.propagation.corrected("first_frame"):
            best = np.zeros(geometry.image_size, np.int32)
            for number, track_id in enumerate(self.ids, 1):
                best[given[track_id]] = number
        else:
            soft = to_image_size(stack, geometry)
            best = F.pad(soft, (0, 0, 0, 0, 1, 0)).argmax(0).numpy()
        return Propagated(self.ids, self._labels(best, self.ids), None, None, regions)

    def _later_frame(
        self, fine: Tensor, coarse: Tensor, masks: dict[int, Tensor], geometry: Letterbox
    ) -> Propagated:
        if masks:
            self._join(coarse, masks, geometry)
        ids = tuple(sorted({*self.ids, *masks}))
        descriptors, present = self.memory.history(ids)
        content = torch.tensor([self._content(geometry, STRIDE)])
        previous = None
        if self._config.network.previous_masks:
            previous = self._previous_regions(ids, masks, coarse, geometry)[None]
        (logits,) = self._network.decode(
            fine, coarse, descriptors[None], present[None], content, previous
        )
        enlarged = _enlarge(logits).softmax(1)[0]
        inner = _enlarge(logits.softmax(1))[0]
        for probability in (enlarged, inner):
            _set_given(probability, masks, ids)
        regions = regions_from_predicted(
            reduce_by_8(inner[OTHERS:]), self._content(geometry, STRIDE)
        )
        self.ids = ids
        self.memory.put(self._describe(coarse, regions, ids, geometry))
        output = to_image_size(enlarged, geometry)
        labels = self._labels(self._choose(output), ids)
        return Propagated(ids, labels, output[OTHERS:], logits[0], regions)

    def _join(self, coarse: Tensor, masks: dict[int, Tensor], geometry: Letterbox) -> None:
        """Describe new objects, all else background, or known ones beside them."""
        stack = torch.stack(list(masks.values()))
        names = tuple(masks)
        regions = regions_from_given(stack, self._content(geometry, 1))
        if self._config.propagation.corrected("new_object_context") and self._previous:
            known = torch.stack([self._previous[n] for n in self.ids])
            objects = torch.cat(
                (regions[BACKGROUNDS:], known * (1 - regions[BACKGROUNDS:].amax(0)))
            )
            regions = regions_from_predicted(objects, self._content(geometry, STRIDE))
            names = (*names, *self.ids)
        described = self._describe(coarse, regions, names, geometry)
        new = Described(self._index, None, {n: described.objects[n] for n in masks})
        self.memory.put(new)
        self._anchor(new)

    def _describe(
        self, coarse: Tensor, regions: Tensor, ids: tuple[int, ...], geometry: Letterbox
    ) -> Described:
        content = torch.tensor([self._content(geometry, STRIDE)])
        (descriptors,) = self._network.describe(coarse, regions[None], content)
        objects = dict(zip(ids, descriptors[0, BACKGROUNDS:], strict=True))
        self._previous = dict(zip(ids, regions[BACKGROUNDS:], strict=True))
        return Described(self._index, descriptors[0, :BACKGROUNDS], objects)

    def _previous_regions(
        self, ids: tuple[int, ...], masks: dict[int, Tensor], coarse: Tensor, geometry: Letterbox
    ) -> Tensor:
        empty = coarse.new_zeros(coarse.shape[-2:])
        given = {n: reduce_by_8(mask[None])[0] for n, mask in masks.items()}
        soft = torch.stack([given.get(n, self._previous.get(n, empty)) for n in ids])
        return regions_from_predicted(soft, self._content(geometry, STRIDE))

    def _anchor(self, described: Described) -> None:
        if self._config.propagation.corrected("anchor"):
            self.memory.anchor(described)

    def _content(self, geometry: Letterbox, stride: int) -> tuple[int, int]:
        """Rows and columns of a map that count; all, or those without padding."""
        if self._config.propagation.corrected("padding"):
            return content_cells(geometry, stride)
        height, width = (side // stride for side in geometry.padded_size)
        return height, width

    def _choose(self, probabilities: Tensor) -> npt.NDArray[np.integer]:
        """(H, W): number of the object (from 1) that wins each pixel, 0 background."""
        if self._config.propagation.corrected("background_choice"):
            background = probabilities[:OTHERS].sum(0, keepdim=True)
            return torch.cat((background, probabilities[OTHERS:])).argmax(0).numpy()
        return (probabilities.argmax(0) - OTHERS + 1).clamp(min=0).numpy()

    @staticmethod
    def _labels(numbers: npt.NDArray[np.integer], ids: tuple[int, ...]) -> npt.NDArray[np.int32]:
        labels: npt.NDArray[np.int32] = np.array([0, *ids], np.int32)[numbers]
        return labels


def _enlarge(maps: Tensor) -> Tensor:
    """(B, N, h, w) at stride 4 to input size."""
    return F.interpolate(maps, scale_factor=4, mode="bilinear", align_corners=False)


def _set_given(probability: Tensor, masks: Mapping[int, Tensor], ids: tuple[int, ...]) -> None:
    """Write given masks into the probabilities (10 + I, H', W'), in place; what a new object had
    predicted elsewhere is lost, as in the released code."""
    for mask in masks.values():
        probability *= 1 - mask
    for track_id, mask in masks.items():
        probability[OTHERS + ids.index(track_id)] = mask
