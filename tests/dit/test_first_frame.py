"""What frames look up in the first one."""

import pytest
import torch

from dianjing.dit.first_frame import HEAD_DIM, TRUST_SCALE, FirstFrameAttention, place_rotation
from dianjing.dit.moving import Moved
from dianjing.dit.rope import rotate

ROWS, COLUMNS, FRAMES = 6, 4, 2
CHANNELS, REGIONS, WIDTH = 4, 1, 16
VELOCITY = torch.tensor([[0.6, -0.8, 0, 0, 0, 0]])  # of noisy latents and of a prediction, what makes clean ones


@pytest.fixture
def lookup():
    torch.manual_seed(0)
    return FirstFrameAttention(WIDTH, channels=CHANNELS, max_regions=REGIONS, patch_size=2, heads=1)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def moved(first_frame, frames, *, columns=0):
    """Every latent so many columns further to the right."""
    shifted = first_frame.roll(columns, dims=-1).unsqueeze(1).expand(-1, frames, -1, -1, -1)
    return Moved(shifted, torch.zeros(len(first_frame), frames, REGIONS, ROWS, COLUMNS))


@pytest.fixture
def scene():
    latents, predicted = draw(1, CHANNELS, FRAMES, ROWS, COLUMNS), draw(1, CHANNELS, FRAMES, ROWS, COLUMNS) + 1
    tokens = draw(FRAMES, ROWS * COLUMNS // 4, WIDTH)
    return predicted, latents, tokens, draw(1, CHANNELS, ROWS, COLUMNS), draw(1, REGIONS, ROWS, COLUMNS)


@torch.no_grad()
def wake(lookup):
    lookup.trust.weight.normal_()
    return lookup


@torch.no_grad()
def test_it_starts_as_nothing_and_takes_nothing_from_a_frame_that_is_not_given(lookup, scene):
    predicted, latents, tokens, first_frame, masks = scene
    frames = (first_frame, torch.zeros_like(first_frame))
    shown, hidden = (lookup.look(frame, masks, moved(frame, FRAMES)) for frame in frames)
    assert torch.equal(lookup(predicted, latents, tokens, shown, VELOCITY), predicted)
    wake(lookup)
    assert not torch.allclose(lookup(predicted, latents, tokens, shown, VELOCITY), predicted)
    assert torch.equal(lookup(predicted, latents, tokens, hidden, VELOCITY), predicted)


@torch.no_grad()
@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (-2, 1)])
def test_a_query_turned_by_a_shift_finds_the_place_that_far_away(shift):
    """What training has to find: the shift alone decides from where every latent is copied."""
    turns = place_rotation(ROWS, COLUMNS).unsqueeze(-3)
    one = torch.tensor([1.0, 0.0]).repeat(HEAD_DIM // 2).expand(1, ROWS * COLUMNS, 1, HEAD_DIM)
    far = place_rotation(16, 16).view(16, 16, -1, 2)
    moved = one.clone()
    for axis, step in enumerate(shift):  # rows, then columns; by how much each pair turns in so many steps
        there = [0, 0]
        there[axis] = abs(step)
        turn = far[tuple(there)].clone()
        turn[..., 1] *= 1 if step >= 0 else -1
        moved = rotate(moved.clone(), turn.view(1, 1, -1, 2))
    scores = rotate(moved.clone(), turns)[0, :, 0] @ rotate(one.clone(), turns)[0, :, 0].T
    found = scores.argmax(dim=1)
    for place in range(ROWS * COLUMNS):
        row, column = place // COLUMNS + shift[0], place % COLUMNS + shift[1]
        if 0 <= row < ROWS and 0 <= column < COLUMNS:
            assert found[place] == row * COLUMNS + column


@torch.no_grad()
def test_before_training_every_latent_looks_at_its_own_place(lookup, scene):
    *_, tokens, first_frame, masks = scene
    lookup.to_v.weight.zero_()
    seen = []
    for place in range(ROWS * COLUMNS):  # what is found where one place alone holds a value
        shown = lookup.look(first_frame, masks, moved(first_frame, FRAMES))
        value = torch.zeros_like(shown.value)
        value[:, place] = 1
        lookup.to_hidden.weight.copy_(torch.eye(HEAD_DIM))
        lookup.to_hidden.bias.zero_()
        lookup.modulation.weight.zero_()
        lookup.modulation.bias.zero_()
        lookup.to_out.weight.fill_(1)
        lookup.trust.bias.copy_(torch.tensor([0.0, -1.0]).repeat_interleave(4 * CHANNELS))  # in what is found
        zero = torch.zeros(1, CHANNELS, FRAMES, ROWS, COLUMNS)
        seen.append(lookup(zero, zero, tokens, shown._replace(value=value), VELOCITY)[0, 0, 0].flatten())
    assert (torch.stack(seen).argmax(dim=0) == torch.arange(ROWS * COLUMNS)).all()


@pytest.mark.parametrize("told", [True, False])
def test_it_learns_to_copy_what_has_moved(lookup, told):
    """A picture that goes to the right, one latent in every clip or as the moved frame tells: copied in 200 steps."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(lookup.parameters(), lr=0.01)
    tokens = torch.ones(8, ROWS * COLUMNS // 4, WIDTH)

    def error():
        first = torch.randn(8, CHANNELS, ROWS, COLUMNS)
        zero = torch.zeros(8, CHANNELS, 1, ROWS, COLUMNS)
        shift = int(torch.randint(0, 3, ())) if told else 1
        masks = torch.ones(8, REGIONS, ROWS, COLUMNS)
        shown = lookup.look(first, masks, moved(first, 1, columns=shift if told else 0))
        frame = lookup(zero, zero, tokens, shown, VELOCITY)[:, :, 0]
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
def test_full_trust_makes_it_the_prediction_of_the_moved_frame(lookup, scene, has_variance):
    """Of v, x0 = a x_t - s v (Salimans & Ho 2022): trusting 1/s gives (a x_t - moved)/s, whatever was predicted."""
    predicted, latents, tokens, first_frame, masks = scene
    signal, noise = 0.6, 0.8
    lookup.trust.bias[: 4 * CHANNELS] = 1 / noise / TRUST_SCALE
    given = torch.cat([predicted, predicted], dim=1) if has_variance else predicted
    shown = lookup.look(first_frame, masks, moved(first_frame, FRAMES, columns=1))
    mended = lookup(given, latents, tokens, shown, VELOCITY)
    wanted = (signal * latents - shown.moved.frames.transpose(1, 2)) / noise
    torch.testing.assert_close(mended[:, :CHANNELS], wanted)
    torch.testing.assert_close(mended[:, CHANNELS:], given[:, CHANNELS:])  # a variance passes through


def test_a_schedule_of_another_length_is_refused(lookup):
    with pytest.raises(ValueError, match="1000"):
        lookup.know_noise(torch.zeros(50, 2))
