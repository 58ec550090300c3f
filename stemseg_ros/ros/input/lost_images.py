"""Counts images that are published and do not arrive, and explains the remedy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from stemseg_ros.replay.processes import FAST_DDS_PROFILES
from stemseg_ros.resources import resource_path

INTERVALS = 31
"""The usual interval is the lower quartile of so many last ones: losses make intervals longer,
never shorter. Each is the mean of two that follow each other, in which the jitter of a single
stamp cancels out."""
FEWEST_INTERVALS = 5
PAUSE_NS = 2_000_000_000
"""A longer gap is a pause of the camera, no loss."""
IRREGULAR = 3.0
"""If the mean of the last intervals is this many usual ones, images come in bursts, and gaps are
no losses."""
REMEMBERED = 200
"""Number of received images over which the share of lost ones is taken."""
FEWEST_EXPECTED = 40
"""Fewest images, received or lost, for a share to be meaningful."""
WORTH_EXPLAINING = 0.05
"""Share of lost images above which the remedy is logged."""

CYCLONE_DDS_URI = "CYCLONEDDS_URI"


class LostImageCounter:
    """Counts lost images twice and believes the higher count.

    The stamps show a gap where they step by more than one and a half of the usual interval, unless
    the following images catch up: that sees what gets lost anywhere between camera and callback,
    but needs a camera of a steady rate, most of whose images arrive. The middleware reports what
    it noticed itself, for best-effort publishers only.
    """

    def __init__(
        self, on_lost: Callable[[int, float], None], explain: Callable[[float], None]
    ) -> None:
        """on_lost: gets the number of lost images, and the seconds between the images around
        them. explain: gets the share of lost images, 0..1, once it is above WORTH_EXPLAINING."""
        self._on_lost = on_lost
        self._explain: Callable[[float], None] | None = explain
        self._newest: int | None = None
        self._intervals: deque[float] = deque(maxlen=INTERVALS)
        self._last_step: int | None = None
        self._gaps = 0
        self._suspected = 0
        self._reported = 0
        self._told = 0
        self._gap_ns = 0
        """From the image before the suspected ones to the image after them."""
        self._recent: deque[int] = deque(maxlen=REMEMBERED)
        """How many were lost before each of the last images received."""

    def received(self, stamp_ns: int) -> None:
        """Record the arrival of an image."""
        step = max(0, stamp_ns - (stamp_ns if self._newest is None else self._newest))
        gap_ns = self._gap_ns or step
        self._look_for_gap(stamp_ns)
        self._recent.append(self._tell(gap_ns / 1e9))
        lost = sum(self._recent)
        expected = lost + len(self._recent)
        share = lost / expected
        if self._explain and expected >= FEWEST_EXPECTED and share > WORTH_EXPLAINING:
            self._explain(share)
            self._explain = None

    def reported(self, number: int) -> None:
        """Record images that the middleware reports as lost."""
        self._reported += number

    def _tell(self, seconds: float) -> int:
        new = max(self._gaps, self._reported) - self._told
        self._told += new
        if new:
            self._on_lost(new, seconds)
        return new

    def _look_for_gap(self, stamp_ns: int) -> None:
        newest, self._newest = self._newest, stamp_ns
        step = 0 if newest is None else stamp_ns - newest
        if step > PAUSE_NS or step < -PAUSE_NS:  # a pause, or a jump of time
            self._last_step, self._suspected, self._gap_ns = None, 0, 0
            if step < 0:
                self._intervals.clear()
        elif step > 0:
            self._judge(step)
        elif newest is not None:  # a repeated or exchanged image
            self._newest = newest

    def _judge(self, step: int) -> None:
        usual = self._usual(step)
        if self._last_step is not None:
            self._intervals.append((step + self._last_step) / 2)
        self._last_step = step
        if usual is None:
            self._suspected = 0
        elif step < usual / 2:  # late, not lost
            self._suspected = max(0, self._suspected - 1)
        else:
            self._gaps += self._suspected
            self._suspected = round(step / usual) - 1 if step > 1.5 * usual else 0
            self._gap_ns = step
        if not self._suspected:
            self._gap_ns = 0

    def _usual(self, step: int) -> float | None:
        """The interval between images; None if not known, or if there is no usual one."""
        known = sorted(self._intervals)
        if len(known) < FEWEST_INTERVALS:
            return None
        usual = known[len(known) // 4]
        mean = (sum(known) + step) / (len(known) + 1)
        return usual if mean < IRREGULAR * usual else None


def remedy(middleware: str, environment: Mapping[str, str]) -> str:
    """Describe the remedy for lost images. middleware: identifier of the RMW implementation."""
    if "cyclonedds" in middleware:
        if CYCLONE_DDS_URI not in environment:
            profile = resource_path("config/cyclonedds.xml")
            return (
                f"start the camera and the node with {CYCLONE_DDS_URI}=file://{profile}, and set "
                "net.core.rmem_max as it says"
            )
    elif "fastrtps" in middleware and not any(name in environment for name in FAST_DDS_PROFILES):
        profile = resource_path("config/fastdds_shm.xml")
        return (
            "the shared memory of Fast DDS is smaller than an image by default, and the camera's "
            f"side decides: start the camera, then the node, with {FAST_DDS_PROFILES[0]}={profile}"
        )
    return (
        "the node has a transport profile; the camera's side decides: start it with the same "
        "profile, or let it publish reliably, less often, or compressed (node.image_transport)"
    )
