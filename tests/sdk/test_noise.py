"""Noise schedules and windows."""

import pytest
import torch
from toy_denoiser import stable_diffusion

from hardprompts.noise import LATE, PREDICTIONS, NoiseSchedule, NoiseWindow


def test_levels_mean_the_same_on_every_schedule() -> None:
    own, flow = stable_diffusion(), NoiseSchedule.flow()
    assert own.levels[500] == pytest.approx(0.6181, abs=1e-4)  # sqrt(1 - 0.2763) / (sqrt(0.2763) + sqrt(1 - 0.2763))
    assert (own.levels.diff() > 0).all() and own.levels[0] > 0
    assert torch.allclose(flow.levels, flow.timesteps / 1000) and flow.levels[-1] == 1
    # The same level is the same ratio of signal and noise.
    step, twin = 700, int((flow.levels - own.levels[700]).abs().argmin())
    assert own.noise[step] / own.signal[step] == pytest.approx(float(flow.noise[twin] / flow.signal[twin]), rel=0.01)


def test_the_late_window_is_the_later_half_of_stable_diffusion() -> None:
    assert LATE.steps(stable_diffusion()).tolist() == list(range(500, 1000))
    assert LATE.steps(NoiseSchedule.flow())[0] == 617  # sigma 0.618


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_and_the_noised_latent_give_the_clean_one_back(prediction: str) -> None:
    schedule = NoiseSchedule.flow() if prediction == "flow_prediction" else stable_diffusion(prediction)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    steps = torch.tensor([10, 300, 600, 990])
    noisy, target = schedule.noised(clean, noise, steps)
    a, s = (f[steps].reshape(-1, 1, 1, 1) for f in (schedule.signal, schedule.noise))
    found = {
        "epsilon": lambda: (noisy - s * target) / a,
        "sample": lambda: target,
        "v_prediction": lambda: a * noisy - s * target,
        "flow_prediction": lambda: noisy - s * target,
    }[prediction]()
    torch.testing.assert_close(found, clean)


def test_steps_are_spread_over_the_window() -> None:
    window, schedule = NoiseWindow(0.2, 0.6), NoiseSchedule.flow()
    drawn = window.draw(schedule, 8, torch.Generator().manual_seed(1))
    levels = schedule.levels[drawn]
    assert levels.min() >= 0.2 and levels.max() <= 0.6
    assert ((levels - 0.2) / 0.4 * 8).floor().clamp(max=7).tolist() == list(range(8))


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.1), (0.9, 0.1)])
def test_windows_that_are_none(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        NoiseWindow(*bounds)
    with pytest.raises(ValueError, match="widen"):
        NoiseWindow(0.0, 0.001).steps(stable_diffusion())
