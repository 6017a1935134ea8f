import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling

from dianjing.train.config.base import TimestepSamplingConfig
from dianjing.train.diffusion import objectives

SCHEDULER = DDPMScheduler(
    beta_start=0.00085, beta_end=0.03, beta_schedule="scaled_linear", prediction_type="v_prediction"
)
ALPHAS = objectives.scaled_linear_alphas_cumprod(0.00085, 0.03)
X0, NOISE = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TIMESTEP = torch.tensor([0, 1, 250, 700, 999])
ALPHA_BAR = ALPHAS[TIMESTEP][:, None, None, None]


def test_noise_schedule_equals_the_schedulers():
    torch.testing.assert_close(ALPHAS, SCHEDULER.alphas_cumprod)


def test_velocity_equals_the_schedulers():
    expected = SCHEDULER.get_velocity(X0, NOISE, TIMESTEP)
    torch.testing.assert_close(objectives.velocity(X0, NOISE, ALPHA_BAR), expected)


def test_add_noise_equals_the_schedulers():
    expected = SCHEDULER.add_noise(X0, NOISE, TIMESTEP)
    torch.testing.assert_close(objectives.add_noise(X0, NOISE, ALPHA_BAR), expected)


def test_x0_follows_from_velocity():
    noisy = objectives.add_noise(X0, NOISE, ALPHA_BAR)
    v = objectives.velocity(X0, NOISE, ALPHA_BAR)
    back = ALPHA_BAR.sqrt() * noisy - (1 - ALPHA_BAR).sqrt() * v
    torch.testing.assert_close(back, X0, atol=1e-4, rtol=0)


def test_min_snr_turns_the_v_error_into_a_clipped_x0_error():
    # an error e in v is an error sigma e in x0, so weight / sigma^2 must be min(SNR, gamma)
    alpha_bar = ALPHAS[::50]
    weight = objectives.min_snr_weight(alpha_bar, gamma=5.0)
    expected = objectives.signal_to_noise_ratio(alpha_bar).clamp(max=5.0)
    torch.testing.assert_close(weight / (1 - alpha_bar), expected)


def test_stratified_positions_put_one_sample_in_each_stratum():
    positions = objectives.stratify_time(torch.rand(64))
    assert sorted((positions * 64).long().tolist()) == list(range(64))


def test_logit_normal_positions_have_their_median_at_the_sigmoid_of_the_mean():
    positions = objectives.logit_normal_time(torch.linspace(0, 1, 1001), mean=0.5, std=1.0)
    assert abs(positions.median() - torch.sigmoid(torch.tensor(0.5))) < 1e-4
    assert 0 < positions.min() < positions.max() < 1


def test_logit_normal_times_have_the_distribution_of_diffusers():
    uniform = torch.linspace(0.05, 0.95, 19)
    ours = objectives.logit_normal_time(uniform, mean=-0.5, std=1.3)
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 200_000, logit_mean=-0.5, logit_std=1.3, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(theirs.quantile(uniform), ours, atol=0.01, rtol=0)


def test_timesteps_stay_inside_the_schedule():
    edges = torch.tensor([0.0, 0.5, 0.999999, 1.0])
    assert objectives.to_timestep(edges).tolist() == [0, 500, 999, 999]


def test_coupled_noise_decides_as_the_data_and_stays_normal():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 4, 3, 3, generator=generator)
    option = torch.randint(0, 3, (4000, 2), generator=generator)
    edges = torch.tensor([0, 0.5, 0.75, 1], dtype=torch.float64)
    option[:2000, 0] = 0  # the first option of the first choice has a probability of a half
    option[2000:, 0] = torch.arange(2000) % 2 + 1
    intervals = torch.stack((edges[option], edges[option + 1]), dim=2)
    coupled = objectives.couple_noise(noise, intervals)
    quantile = torch.special.ndtr(coupled[:, :2].double().flatten(2).sum(2) / 3)
    assert ((quantile >= intervals[..., 0] - 1e-5) & (quantile <= intervals[..., 1] + 1e-5)).all()
    assert torch.equal(coupled[:, 2:], noise[:, 2:])
    flat = coupled[:, 0].flatten(1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(9), atol=0.06, rtol=0)
    torch.testing.assert_close(flat.T.cov(), torch.eye(9), atol=0.1, rtol=0)
    everything = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(4000, 2, 2)
    torch.testing.assert_close(objectives.couple_noise(noise, everything), noise, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampling", ["uniform", "stratified", "logit_normal"])
def test_a_share_of_the_times_is_the_noisiest(sampling):
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    times = [
        objectives.sample_time(u, TimestepSamplingConfig(timestep_sampling=sampling, noisiest_share=share))
        for share in (0.0, 0.4)
    ]
    is_noisiest = times[1] == 1
    assert abs(is_noisiest.float().mean() - 0.4) < 0.02
    grid = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(times[1][~is_noisiest].quantile(grid), times[0].quantile(grid), atol=0.03, rtol=0)
    assert objectives.to_timestep(times[1][is_noisiest]).unique().tolist() == [999]
