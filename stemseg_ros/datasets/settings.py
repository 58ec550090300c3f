"""Settings of a dataset in the training mix."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from stemseg_ros.settings import Section


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower end {bounds[0]:g} is above the upper end {bounds[1]:g}")
    return bounds


PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Crop = tuple[PositiveInt, PositiveInt]
Scale = Annotated[tuple[PositiveFinite, PositiveFinite], AfterValidator(_rising)]


class DatasetConfig(Section):
    """A labelled dataset of the training mix (``docs/datasets.md``); a bare number is the
    weight."""

    format: str = "driving"
    """Layout of the files; driving: the folder of the entry's name in the driving pack."""
    root: str = "."
    """Folder of the dataset, relative to the folder of training data."""
    folder: str | None = None
    """Folder in the driving pack, where it is not the entry's name: two entries may draw different
    clips from one folder."""
    instances: bool = True
    """Whether objects are labelled one by one; false: the labels teach classes and foreground
    alone."""
    split: str = Field("train", pattern=r"^\w+$")
    """Part of the dataset, by the name its own files use."""
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Share among the clips drawn, relative to the other entries."""
    repair: bool = False
    """Repair split masks and broken ids of machine-made labels when the data is loaded; its frames
    then stay decoded in memory."""
    crop: Crop | None = None
    """Height and width of its clips, in place of ``training.crop``; a batch holds one size."""
    scale: Scale | None = None
    """Range of its random scale, in place of ``training.scale``."""
    focus: str | None = None
    """Class that crops are placed on; sequences that do not show it are left out."""

    @model_validator(mode="after")
    def _folder_of_the_pack(self) -> DatasetConfig:
        if self.folder is not None and self.format != "driving":
            raise ValueError(
                f"folder is for the format driving; '{self.format}' has root and split"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _bare_weight(cls, value: Any) -> Any:
        return {"weight": value} if isinstance(value, int | float) else value

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, value: Any) -> Any:
        if not (isinstance(value, dict) and "mend" in value):
            return value
        message = "the setting 'mend' is now 'repair'; the next version will refuse the old name"
        warnings.warn(message, FutureWarning, stacklevel=2)
        return {"repair" if key == "mend" else key: given for key, given in value.items()}
