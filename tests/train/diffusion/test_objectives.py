import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling

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
