"""Linkers by name, over masks of a run or of stored results (``stemseg evaluate --linker``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from stemseg_ros.evaluation.inputs import EvaluationInput
from stemseg_ros.evaluation.linkers import (
    AppearanceLinker,
    AssociationLinker,
    Embedder,
    FlowLinker,
    Linker,
    relink,
)
from stemseg_ros.evaluation.lost_frames import LostFrames
from stemseg_ros.evaluation.mask_embeddings import MaskEmbedder
from stemseg_ros.evaluation.runs import Setup
from stemseg_ros.evaluation.variants import OWN, LinkingVariant
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.models.stc.settings import AssociationConfig, Settings
from stemseg_ros.stream import open_model

Masks = Callable[[], SequenceMasks]
"""Reads the results of a sequence where they are needed."""
LINKERS = (OWN, "of", "ri", "stc")
"""own: identities as the source of the masks gave them. of: optical flow. ri: distance of
vectors. stc: STC's association."""


class Relinker:
    """Gives masks the identities of a variant's linker, each sequence once."""

    def __init__(self, given: EvaluationInput, setup: Setup) -> None:
        """setup: the model whose embeddings ri and stc use."""
        self._given, self._setup = given, setup
        self._done: dict[tuple[str, str, str], tuple[SequenceMasks, LostFrames]] = {}
        self._embedder: Embedder | None = None

    def masks(self, variant: LinkingVariant, masks: Mapping[str, Masks]) -> dict[str, Masks]:
        """The masks of every sequence as a variant links them. Raises EvaluationError, MediaError,
        CheckpointError."""
        if variant.linker == OWN:
            return dict(masks)
        missing = sorted(masks.keys() - self._given.images.keys())
        if missing:
            raise EvaluationError(
                f"no images of {', '.join(missing)}, which the linker {variant.linker} looks at; "
                "name their folder (--images)"
            )
        return {
            name: partial(as_given, self._linked(variant, name, read))
            for name, read in masks.items()
        }

    def lost(self, variant: LinkingVariant) -> dict[str, LostFrames]:
        """Return the frames that the linker of a variant could not read, by sequence; sequences
        without such frames are left out."""
        return {
            name: lost
            for (run, linker, name), (_, lost) in self._done.items()
            if (run, linker) == (variant.run, variant.linker) and lost
        }

    def _linked(self, variant: LinkingVariant, name: str, read: Masks) -> SequenceMasks:
        key = variant.run, variant.linker, name
        if key not in self._done:
            linker = self._linker(variant.linker)
            self._done[key] = relink(read(), self._given.images[name], linker)
        return self._done[key][0]

    def _linker(self, name: str) -> Linker:
        """A fresh one, for one sequence."""
        if name == "of":
            return FlowLinker()
        if self._embedder is None:
            setup = self._setup
            self._embedder = MaskEmbedder(open_model(setup.config, setup.checkpoint, setup.device))
        if name == "ri":
            return AppearanceLinker(self._embedder)
        return AssociationLinker(self._embedder, self._association())

    def _association(self) -> AssociationConfig:
        config = self._setup.config
        return config.association if isinstance(config, Settings) else AssociationConfig()


def as_given(masks: SequenceMasks) -> SequenceMasks:
    """The same masks; with ``partial``, masks that need no reading."""
    return masks
