"""Meaning of ``reference`` and ``corrected`` in propagation (``docs/parity.md``).

``reference`` follows the released code, ``corrected`` the evident intention. Propagation reads
the plain values below, which are derived from the switches of the settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from stemseg_ros.models.hodor.settings import PropagationConfig


@dataclass(frozen=True, slots=True)
class PropagationRules:
    """Rules for propagating objects from frame to frame."""

    first_as_given: bool
    """Masks of the first frame are returned as given, else dilated by interpolation."""
    describes_tiny: bool
    """An object too small for any stride-8 value above 0.5 is described by its maximum, else it is
    dropped."""
    empty_at_image_size: bool
    """Label images before the first object have the size of the image, else of the padded
    input."""
    joint_background: bool
    """The background channels compete as their sum, else one by one."""
    known_beside_new: bool
    """Known objects are described beside a new one, else they are background to it."""
    masks_padding: bool
    """Padded pixels are masked, else they are attended to and described."""
    keeps_given: bool
    """Descriptors of given masks never expire, else they leave the history with their frame."""

    @classmethod
    def of(cls, config: PropagationConfig) -> PropagationRules:
        """Derive the rules from the switches."""
        return cls(
            first_as_given=config.corrected("first_frame"),
            describes_tiny=config.corrected("tiny_reference"),
            empty_at_image_size=config.corrected("empty_frames"),
            joint_background=config.corrected("background_choice"),
            known_beside_new=config.corrected("new_object_context"),
            masks_padding=config.corrected("padding"),
            keeps_given=config.corrected("anchor"),
        )
