"""What frames take over from the first one."""

import pytest
import torch

from dianjing.dit.motion.warp import Warp
from dianjing.dit.motion.warp_guidance import TOKEN_GATE_SCALE, WarpGuidance, make_warped_first_frame

ROWS, COLUMNS, FRAMES = 6, 4, 2
CHANNELS, REGIONS, WIDTH = 4, 1, 16
VELOCITY = torch.tensor([[0.6, -0.8, 0, 0, 0, 0]])  # of noisy latents and of a prediction, what makes clean ones


@pytest.fixture
def part():
    torch.manual_seed(0)
    return WarpGuidance(WIDTH, channels=CHANNELS, patch_size=2)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def moved(first_frame, frames, *, columns=0):
    """Every latent so many columns further to the right."""
    shifted = first_frame.roll(columns, dims=-1).unsqueeze(1).expand(-1, frames, -1, -1, -1)
    return Warp(shifted, torch.zeros(len(first_frame), frames, REGIONS, ROWS, COLUMNS))


@pytest.fixture
def scene():
    latents, predicted = draw(1, CHANNELS, FRAMES, ROWS, COLUMNS), draw(1, CHANNELS, FRAMES, ROWS, COLUMNS) + 1
    tokens = draw(FRAMES, ROWS * COLUMNS // 4, WIDTH)
    return predicted, latents, tokens, draw(1, CHANNELS, ROWS, COLUMNS)


@torch.no_grad()
def wake(part):
    part.token_gate.weight.normal_()
    return part


@torch.no_grad()
def test_it_starts_as_nothing_and_takes_nothing_from_a_frame_that_is_not_given(part, scene):
    predicted, latents, tokens, first_frame = scene
    frames = (first_frame, torch.zeros_like(first_frame))
    shown, hidden = (make_warped_first_frame(frame, moved(frame, FRAMES)) for frame in frames)
    assert torch.equal(part(predicted, latents, tokens, shown, VELOCITY), predicted)
    wake(part)
    assert not torch.allclose(part(predicted, latents, tokens, shown, VELOCITY), predicted)
    assert torch.equal(part(predicted, latents, tokens, hidden, VELOCITY), predicted)


def test_it_learns_to_take_over_the_moved_frame(part):
    """A picture that goes to the right, as far as the moved frame tells: taken over in 200 steps."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
    tokens = torch.ones(8, ROWS * COLUMNS // 4, WIDTH)

    def error():
        first = torch.randn(8, CHANNELS, ROWS, COLUMNS)
        zero = torch.zeros(8, CHANNELS, 1, ROWS, COLUMNS)
        shift = int(torch.randint(0, 3, ()))
        shown = make_warped_first_frame(first, moved(first, 1, columns=shift))
        frame = part(zero, zero, tokens, shown, VELOCITY)[:, :, 0]
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
def test_full_trust_makes_it_the_prediction_of_the_moved_frame(part, scene, has_variance):
    """Of v, x0 = a x_t - s v (Salimans & Ho 2022): trusting 1/s gives (a x_t - moved)/s, whatever was predicted."""
    predicted, latents, tokens, first_frame = scene
    signal, noise = 0.6, 0.8
    part.token_gate.bias[: 4 * CHANNELS] = 1 / noise / TOKEN_GATE_SCALE
    given = torch.cat([predicted, predicted], dim=1) if has_variance else predicted
    shown = make_warped_first_frame(first_frame, moved(first_frame, FRAMES, columns=1))
    mended = part(given, latents, tokens, shown, VELOCITY)
    wanted = (signal * latents - shown.warp.frames.transpose(1, 2)) / noise
    torch.testing.assert_close(mended[:, :CHANNELS], wanted)
    torch.testing.assert_close(mended[:, CHANNELS:], given[:, CHANNELS:])  # a variance passes through


def test_a_schedule_of_another_length_is_refused(part):
    with pytest.raises(ValueError, match="1000"):
        part.set_x0_coefficients(torch.zeros(50, 2))
