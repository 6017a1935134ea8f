"""Feed-forward layers in chunks: the same output from fewer hidden states at a time, under diffusers' names."""

import pytest
import torch
from diffusers import HunyuanDiT2DModel

from dianjing import DianjingError

TIMESTEPS = torch.tensor([900.0, 500.0])


@pytest.fixture
def latents():
    return torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make_video_model(make_model):
    """A model with motion blocks that act: their last layers have random weights too."""

    def make():
        model = make_model(use_motion_blocks=True, temporal_attention="full")
        with torch.no_grad():
            for name, parameter in model.motion_blocks.named_parameters():
                if "ff" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


def record_sizes(model):
    """The sizes (rows, tokens) of all inputs of feed-forward layers from now on."""
    sizes = []
    for block in (*model.blocks, *model.motion_blocks):
        block.ff.net[0].register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[:2])))
    return sizes


@pytest.mark.parametrize(
    ("chunk_size", "dim", "largest"),
    [(None, 0, (1, 48)), (0, 0, (1, 48)), (4, 0, (4, 48)), (5, 1, (6, 5)), (16, 1, (6, 16)), (1000, 1, (6, 48))],
)
@torch.no_grad()
def test_chunks_bound_the_hidden_states_and_keep_the_output(
    make_video_model, make_text, latents, chunk_size, dim, largest
):
    model = make_video_model()
    text, sizes = make_text(model), record_sizes(model)
    expected = model(latents, TIMESTEPS, **text).sample
    unchunked = set(sizes)
    sizes.clear()
    model.enable_forward_chunking(chunk_size, dim)
    torch.testing.assert_close(model(latents, TIMESTEPS, **text).sample, expected, rtol=1e-5, atol=1e-5)
    assert max(rows for rows, _ in sizes) <= largest[0]
    assert max(tokens for _, tokens in sizes) <= largest[1]
    sizes.clear()
    model.disable_forward_chunking()
    assert torch.equal(model(latents, TIMESTEPS, **text).sample, expected)
    assert set(sizes) == unchunked


def test_chunks_keep_the_gradients(make_video_model, make_text, latents):
    model = make_video_model()
    text = make_text(model)

    def compute_gradients():
        model.zero_grad()
        model(latents, TIMESTEPS, **text).sample.sin().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    expected = compute_gradients()
    model.enable_forward_chunking(5, dim=1)
    torch.testing.assert_close(compute_gradients(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [-1, 2])
def test_another_dimension_is_refused_as_in_diffusers(make_model, dim):
    theirs = HunyuanDiT2DModel(in_channels=4, patch_size=2, num_layers=1)
    for each in (make_model(), theirs):
        with pytest.raises(ValueError, match=f"dim.*{dim}"):
            each.enable_forward_chunking(2, dim)


def test_a_negative_chunk_size_is_refused(make_model):
    with pytest.raises(DianjingError, match="chunk_size is -1"):
        make_model().enable_forward_chunking(-1)
