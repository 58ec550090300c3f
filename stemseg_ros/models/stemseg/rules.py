"""What ``reference`` and ``corrected`` stand for in each part, on one page (``docs/parity.md``).

``reference`` follows the released code, ``corrected`` the paper or what is evidently meant. The
algorithms read the plain values below, which are derived once from the switches of the settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from stemseg_ros.models.stemseg.settings import ClusteringConfig, Settings, StitchingConfig

REFERENCE_LIMIT = 20
"""Most instances of a window in the released code."""


@dataclass(frozen=True, slots=True)
class ClusteringRules:
    """How the instances of a window are found."""

    squared_distance: bool
    """Probability at Mahalanobis distance d: exp(-d^2 / 2), else exp(-d / 2)."""
    nearest_leftovers: bool
    """A pixel that no cluster claimed is offered to the nearest cluster, else to the farthest."""
    max_instances: int
    """Most instances of a window."""
    seed_min_free: float | None
    """Share of its pixels that must be free for a centre to be accepted; None accepts all."""

    @classmethod
    def of(cls, config: ClusteringConfig) -> ClusteringRules:
        """Derive the rules from the switches."""
        limited = not config.corrected("instance_limit")
        return cls(
            squared_distance=config.corrected("distance"),
            nearest_leftovers=config.corrected("leftovers"),
            max_instances=REFERENCE_LIMIT if limited else config.max_instances,
            seed_min_free=config.seed_min_free if config.corrected("seed_rejection") else None,
        )


@dataclass(frozen=True, slots=True)
class LinkingRules:
    """How clusters continue tracks."""

    every_pair: bool
    """The assignment is accepted as it is, even at IoU 0 and across classes; else pairs need
    ``min_iou`` and equal classes."""
    recovery: bool
    """Tracks that missed windows can be found again."""
    filling: bool
    """Later windows fill holes of a frame's first window."""
    reuse_numbers: bool
    """The number of a cluster that was never written is given again."""

    @classmethod
    def of(cls, config: StitchingConfig) -> LinkingRules:
        """Derive the rules from the switches."""
        return cls(
            every_pair=not config.corrected("matching"),
            recovery=config.corrected("recovery"),
            filling=config.corrected("filling"),
            reuse_numbers=config.variant == "reference",
        )


@dataclass(frozen=True, slots=True)
class LossRules:
    """How targets and losses treat ignored cells, empty windows and the size of instances."""

    exclude_ignored: bool
    """Ignored cells take part in no loss; else only heat map and foreground leave them out."""
    empty_windows: bool
    """The heat map of a window without instances is pushed to zero."""
    foreground_per_window: bool
    """The foreground loss is a mean of windows, else of the cells of the batch."""
    interior_heat: bool
    """The target of the heat map falls towards the rim of an instance."""
    min_instance_cells: int
    """Instances of fewer cells stay out of the Lovász loss."""
    size_power: float
    """Weight of an instance in the Lovász loss: its cells to this power."""
    cells_by_majority: bool
    """A cell belongs to the label that covers most of it, thin objects first; else to what covers
    all of its bilinear support."""

    @classmethod
    def of(cls, config: Settings) -> LossRules:
        """Derive the rules from ``training.targets`` and the settings that go with it."""
        training = config.training
        corrected = training.targets == "corrected"
        return cls(
            exclude_ignored=corrected,
            empty_windows=corrected,
            foreground_per_window=not corrected,
            interior_heat=corrected and training.heatmap_target == "interior",
            min_instance_cells=training.min_instance_cells if corrected else 0,
            size_power=training.size_power if corrected else 0.0,
            cells_by_majority=corrected,
        )
