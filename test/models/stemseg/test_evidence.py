"""Evidence of windows that are padded: a stream shorter than T."""

from __future__ import annotations

import pytest
import torch

from stemseg_ros.models.stemseg.evidence import EvidenceAverage
from stemseg_ros.models.stemseg.tensors import Features, NetworkOutput, Window

INDICES = (0, 0, 0, 1)
"""Two frames in a window of four: frame 0 three times."""


def padded(semantic: bool = True) -> tuple[Window, NetworkOutput]:
    """Every map holds the number of its slot."""
    slots = torch.arange(4.0).view(1, 4, 1, 1)
    logits = torch.cat((slots, 10 * slots)) if semantic else None
    maps = NetworkOutput(slots.repeat(2, 1, 1, 1), slots.clone(), slots / 10, logits)
    return Window(INDICES, (Features(()),) * 4), maps


@pytest.mark.parametrize(
    ("copies", "first"), [(True, (0 + 1 + 2) / 3), (False, 2.0)], ids=["reference", "corrected"]
)
def test_each_frame_comes_out_once(copies: bool, first: float) -> None:
    """The released code averages the logits of frame 0 over its copies, slots 0, 1 and 2, and
    takes its embeddings from slot 2; frame 1 is slot 3."""
    average = EvidenceAverage()
    average.add(*padded(), copies=copies)
    (ready,) = average.ready(everything=True)
    assert ready.window.indices == (0, 1)
    assert ready.output.embeddings[:, :, 0, 0].tolist() == [[2, 3], [2, 3]]
    assert ready.output.bandwidths.flatten().tolist() == [2, 3]
    assert ready.output.heatmap.flatten().tolist() == pytest.approx([0.2, 0.3])
    assert ready.output.semantic_logits is not None
    assert ready.output.semantic_logits[0].flatten().tolist() == pytest.approx([first, 3])
    assert ready.evidence.flatten().tolist() == pytest.approx([10 * first, 30])


@pytest.mark.parametrize("copies", [True, False])
def test_the_heat_map_of_copies_never_counts(copies: bool) -> None:
    average = EvidenceAverage()
    average.add(*padded(semantic=False), copies=copies)
    (ready,) = average.ready(everything=True)
    assert ready.evidence.flatten().tolist() == pytest.approx([0.2, 0.3])


def test_later_windows_add_to_the_mean() -> None:
    average = EvidenceAverage()
    average.add(*padded(), copies=True)
    window, output = padded()
    average.add(Window((0, 1, 2, 3), window.features), output, copies=True)
    first, _ = average.ready(everything=True)
    assert first.evidence.flatten().tolist() == pytest.approx([10 * (0 + 1 + 2 + 0) / 4, 20])
