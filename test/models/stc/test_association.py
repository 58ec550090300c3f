"""Association of detections with tracks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from models.stc.conftest import Arrays

from stemseg_ros.models.stc.association import Associator, Observations
from stemseg_ros.models.stc.settings import AssociationConfig


def observations(golden: Arrays, frame: int) -> Observations:
    return Observations(
        *(golden[f"{n}_{frame}"] for n in ("boxes", "scores", "labels", "embeddings"))
    )


def test_association_golden(stc_golden: Callable[[str], Arrays]) -> None:
    golden = stc_golden("stc_association")
    options = {k.removeprefix("option_"): v.item() for k, v in golden.items() if "option_" in k}
    associator = Associator(AssociationConfig(**options))
    for frame in range(int(golden["frames"])):
        outcome = associator.update(observations(golden, frame))
        ids = golden[f"ids_{frame}"]
        assert outcome.ids.astype(ids.dtype).tobytes() == ids.tobytes()
        if f"affinity_{frame}" in golden:
            expected = golden[f"affinity_{frame}"]
            np.testing.assert_allclose(
                outcome.affinity.reshape(expected.shape), expected, rtol=0, atol=1e-9
            )
        np.testing.assert_array_equal(
            [t.id for t in associator.tracks], golden[f"track_ids_{frame}"]
        )
        memory = golden[f"track_embeddings_{frame}"]
        np.testing.assert_allclose(
            np.reshape([t.embedding for t in associator.tracks], memory.shape),
            memory,
            rtol=0,
            atol=1e-9,
        )
