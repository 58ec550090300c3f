"""Learning rates at given steps, against numbers worked out from the paper and the released
schedules."""

from __future__ import annotations

import numpy as np
import pytest
from driving_pack import tiny_config

from stemseg_ros.config import Config, ConfigError, load_config
from stemseg_ros.training.schedule import make_optimizer, rate_factor, set_rates
from stemseg_ros.training.steps import start


def cosine(warmup: int) -> Config:
    return tiny_config(steps=100, schedule="cosine", warmup_steps=warmup)


@pytest.mark.parametrize(
    ("config", "step", "factor"),
    [
        (cosine(0), 0, 1.0),
        (cosine(0), 50, 0.5),
        (cosine(0), 100, 0.0),
        (cosine(9), 0, 0.1),
        (cosine(9), 9, 0.5 * (1 + np.cos(0.09 * np.pi))),
        (tiny_config(schedule="constant", steps=100), 99, 1.0),
    ],
)
def test_constant_cosine_and_warm_up(config: Config, step: int, factor: float) -> None:
    assert rate_factor(step, config) == pytest.approx(factor)


ROOT_OF_TENTH = 0.31622777
"""Half of the way to a tenth, on a logarithmic scale."""


@pytest.mark.parametrize(
    ("name", "steps", "rates"),
    [
        # Supplement II: 1e-3, then exponentially to 1e-5 at the end; half of the way is 1e-4.
        ("davis", 60_000, {0: 1e-3, 20_000: 1e-3, 40_000: 1e-4, 60_000: 1e-5}),
        ("youtube_vis", 150_000, {59_999: 1e-3, 60_000: 1e-3, 105_000: 1e-4, 150_000: 1e-5}),
        ("kitti_mots", 100_000, {40_000: 1e-3, 55_000: 1e-3 * 0.01**0.25, 70_000: 1e-4}),
        # Released: to a tenth over 10,000 steps, then a second run at a constant rate.
        (
            "davis_released_1",
            50_000,
            {40_000: 1e-3, 45_000: 1e-3 * ROOT_OF_TENTH, 50_000: 1e-4},
        ),
        ("davis_released_2", 10_000, {0: 1e-3, 9_999: 1e-3}),
        # To a hundredth over 100,000 steps.
        ("youtube_vis_released", 160_000, {60_000: 1e-3, 110_000: 1e-4, 160_000: 1e-5}),
        # To a tenth over 20,000 steps, then a second run at a constant rate.
        (
            "kitti_mots_released_1",
            80_000,
            {60_000: 1e-3, 70_000: 1e-3 * ROOT_OF_TENTH, 80_000: 1e-4},
        ),
        ("kitti_mots_released_2", 20_000, {0: 1e-3, 19_999: 1e-3}),
    ],
)
def test_published_schedules(name: str, steps: int, rates: dict[int, float]) -> None:
    config = load_config(name)
    training = config.training
    assert training.steps == steps
    assert (training.optimizer, training.learning_rate, training.weight_decay) == (
        "sgd",
        1e-3,
        1e-4,
    )
    assert training.batch_size * training.accumulate == 2
    found = {step: training.learning_rate * rate_factor(step, config) for step in rates}
    assert found == pytest.approx(rates, rel=1e-6)


def test_the_decay_is_the_same_factor_with_every_step() -> None:
    config = load_config("youtube_vis_released")
    factors = [rate_factor(step, config) for step in (60_000, 60_001, 100_000, 100_001)]
    assert factors[1] / factors[0] == pytest.approx(0.01 ** (1 / 100_000), rel=1e-12)
    assert factors[3] / factors[2] == pytest.approx(0.01 ** (1 / 100_000), rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "changes"),
    [
        ("davis_released_1", "davis_released_2", (8, 16, False, True)),
        ("kitti_mots_released_1", "kitti_mots_released_2", (8, 8, False, False)),
    ],
)
def test_second_steps_go_on_with_the_weights_of_the_first(
    first: str, second: str, changes: tuple[int, int, bool, bool]
) -> None:
    one, two = load_config(first), load_config(second)
    assert two.training.start_from == f"out/{first}/checkpoint.pt"
    assert two.network == one.network
    assert changes == (
        one.window.length,
        two.window.length,
        one.training.frozen_encoder,
        two.training.frozen_encoder,
    )


def test_a_decay_that_starts_after_the_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="decay_start 100 is not below steps 100"):
        tiny_config(schedule="exponential", steps=100, decay_start=100)


def test_rates_of_the_parts_of_the_network() -> None:
    config = tiny_config(
        steps=100,
        schedule="exponential",
        decay_start=50,
        learning_rate=0.1,
        backbone_rate=0.3,
        output_rate=5.0,
    )
    optimizer = make_optimizer(start(config).network, config)
    set_rates(optimizer, 75, config)
    # A hundredth is reached at 100, so a tenth at 75.
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.003, 0.05, 0.01])


def test_sgd_is_that_of_the_paper() -> None:
    config = tiny_config(optimizer="sgd", weight_decay=1e-4)
    for group in make_optimizer(start(config).network, config).param_groups:
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)
