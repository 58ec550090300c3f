"""Our MobileNetV2 against torchvision's, and what loading it imports."""

from __future__ import annotations

import subprocess
import sys

import torch
from torchvision.models import mobilenet_v2
from torchvision.ops import FrozenBatchNorm2d

from stemseg_ros.models.layers.backbone import MobileNetV2

STAGES = {"layer1": (0, 4), "layer2": (4, 7), "layer3": (7, 14), "layer4": (14, 18)}


def test_mobilenet_equals_the_one_of_torchvision() -> None:
    """Names, shapes and, to the last bit, maps."""
    theirs = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features.eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in theirs.state_dict().items():
        if key.endswith(("running_var", "1.weight")) and value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    state = {
        f"{stage}.{key}": value
        for stage, (begin, end) in STAGES.items()
        for key, value in theirs[begin:end].state_dict().items()
    }
    ours = MobileNetV2().eval()
    ours.load_state_dict(state)
    image = torch.randn(1, 3, 64, 96, generator=generator)
    maps, x = ours(image), image
    for found, (begin, end) in zip(maps, STAGES.values(), strict=True):
        x = theirs[begin:end](x)
        assert torch.equal(found, x)


def test_a_loaded_lite_needs_no_torchvision() -> None:
    code = (
        "import sys, stemseg_ros; stemseg_ros.open_model('lite', device='cpu'); "
        "print([name for name in sys.modules if name.startswith('torchvision')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
