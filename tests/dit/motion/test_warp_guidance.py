"""Predictions follow the warped first frame as far as the gates allow."""

import pytest
import torch

from dianjing.dit.motion.warp import Warp
from dianjing.dit.motion.warp_guidance import TOKEN_GATE_SCALE, WarpGuidance, make_warped_first_frame

ROWS, COLUMNS, FRAMES = 6, 4, 2
CHANNELS, REGIONS, WIDTH = 4, 1, 16
VELOCITY = torch.tensor([[0.6, -0.8, 0, 0, 0, 0]])  # coefficients of latents and prediction that give x0


@pytest.fixture
def guidance():
    torch.manual_seed(0)
    return WarpGuidance(WIDTH, channels=CHANNELS, patch_size=2)


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def make_warp(first_frame, frames, *, columns=0):
    """Shift every latent to the right by `columns`."""
    shifted = first_frame.roll(columns, dims=-1).unsqueeze(1).expand(-1, frames, -1, -1, -1)
    return Warp(shifted, torch.zeros(len(first_frame), frames, REGIONS, ROWS, COLUMNS))


@pytest.fixture
def scene():
    latents, prediction = sample(1, CHANNELS, FRAMES, ROWS, COLUMNS), sample(1, CHANNELS, FRAMES, ROWS, COLUMNS) + 1
    tokens = sample(FRAMES, ROWS * COLUMNS // 4, WIDTH)
    return prediction, latents, tokens, sample(1, CHANNELS, ROWS, COLUMNS)


@torch.no_grad()
def open_token_gate(guidance):
    guidance.token_gate.weight.normal_()
    return guidance


@torch.no_grad()
def test_before_training_and_without_a_first_frame_predictions_pass_unchanged(guidance, scene):
    prediction, latents, tokens, first_frame = scene
    frames = (first_frame, torch.zeros_like(first_frame))
    warped, absent = (make_warped_first_frame(frame, make_warp(frame, FRAMES)) for frame in frames)
    assert torch.equal(guidance(prediction, latents, tokens, warped, VELOCITY), prediction)
    open_token_gate(guidance)
    assert not torch.allclose(guidance(prediction, latents, tokens, warped, VELOCITY), prediction)
    assert torch.equal(guidance(prediction, latents, tokens, absent, VELOCITY), prediction)


def test_it_learns_to_copy_the_warped_frame(guidance):
    """Frames shifted to the right by a random number of columns: learned in 200 steps."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(guidance.parameters(), lr=0.01)
    tokens = torch.ones(8, ROWS * COLUMNS // 4, WIDTH)

    def error():
        first = torch.randn(8, CHANNELS, ROWS, COLUMNS)
        zero = torch.zeros(8, CHANNELS, 1, ROWS, COLUMNS)
        shift = int(torch.randint(0, 3, ()))
        warped = make_warped_first_frame(first, make_warp(first, 1, columns=shift))
        frame = guidance(zero, zero, tokens, warped, VELOCITY)[:, :, 0]
        return (frame[..., shift:] - first[..., : COLUMNS - shift]).square().mean()

    before = error().item()
    for _ in range(200):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert before > 0.9
    assert error().item() < 0.1


@torch.no_grad()
@pytest.mark.parametrize("has_variance", [False, True])
def test_an_open_gate_gives_the_predictionof_the_warped_frame(guidance, scene, has_variance):
    """A gate of 1/s gives v = (a x_t - warped)/s: x0 = a x_t - s v (Salimans & Ho 2022)."""
    prediction, latents, tokens, first_frame = scene
    signal, noise = 0.6, 0.8
    guidance.token_gate.bias[: 4 * CHANNELS] = 1 / noise / TOKEN_GATE_SCALE
    if has_variance:
        prediction = torch.cat([prediction, prediction], dim=1)
    warped = make_warped_first_frame(first_frame, make_warp(first_frame, FRAMES, columns=1))
    corrected = guidance(prediction, latents, tokens, warped, VELOCITY)
    expected = (signal * latents - warped.warp.frames.transpose(1, 2)) / noise
    torch.testing.assert_close(corrected[:, :CHANNELS], expected)
    torch.testing.assert_close(corrected[:, CHANNELS:], prediction[:, CHANNELS:])  # a variance passes through


def test_a_schedule_of_another_length_is_refused(guidance):
    with pytest.raises(ValueError, match="1000"):
        guidance.set_x0_coefficients(torch.zeros(50, 2))
