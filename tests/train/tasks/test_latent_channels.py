"""A transformer whose latents get further channels predicts as before."""

import pytest
import torch
from torch import Tensor

from dianjing.dit import DiT
from dianjing.dit.motion.control import MotionControl
from dianjing.dit.motion.warp import Warp
from dianjing.train.tasks.latent_channels import add_latent_channels
from dianjing.train.tasks.text_to_image_model import load_transformer

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "patch_size": 2,
    "num_layers": 2,
    "cross_attention_dim": 8,
    "cross_attention_dim_t5": 8,
    "pooled_projection_dim": 8,
    "text_len": 4,
    "text_len_t5": 4,
    "sample_size": 8,
    "learn_sigma": False,
    "use_style_cond_and_image_meta_size": False,
}
VIDEO = {"use_motion_blocks": True, "max_regions": 2, "use_flow_field": True}


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_dit(channels: int, **settings) -> DiT:
    torch.manual_seed(channels)
    dit = DiT(in_channels=channels, **CONFIG, **settings).eval()
    with torch.no_grad():
        for name, weight in dit.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.1)
    return dit


@torch.no_grad()
def predict(dit: DiT, channels: int, *, video: bool) -> Tensor:
    """Predict for latents whose first channels are the same for every number of channels."""
    frames = (3,) if video else ()
    latents, first, warped = sample(2, 6, *frames, 8, 8), sample(2, 6, 8, 8, seed=1), sample(2, 3, 6, 8, 8, seed=2)
    control = MotionControl(
        first_frame=first[:, :channels],
        masks=(sample(2, 2, 8, 8, seed=3) > 0).float(),
        phrase_embeds=sample(2, 2, 5, 8, seed=4),
        phrase_mask=torch.ones(2, 2, 5),
        strengths=torch.full((2, 2), 0.3),
        warp=Warp(warped[:, :, :channels], torch.zeros(2, 3, 2, 8, 8)),
    )
    text, mask = sample(2, 4, 8, seed=5), torch.ones(2, 4)
    return dit(
        latents[:, :channels],
        torch.tensor([700.0, 200.0]),
        text,
        text_embedding_mask=mask,
        encoder_hidden_states_t5=text,
        text_embedding_mask_t5=mask,
        motion_control=control if video else None,
    ).sample


@pytest.mark.parametrize("video", [False, True])
def test_further_channels_leave_the_prediction_for_the_others_as_it_was(tmp_path, video):
    settings = VIDEO if video else {}
    before, after = make_dit(4, **settings), make_dit(6, **settings)
    before.save_pretrained(tmp_path)
    load_transformer(after, tmp_path)
    expected, sampled = predict(before, 4, video=video), predict(after, 6, video=video)
    assert expected.std() > 0.01
    torch.testing.assert_close(sampled[:, :4], expected)
    if not video:
        assert not sampled[:, 4:].any()


def test_weights_for_as_many_channels_stay_as_they_are():
    weights = make_dit(4).state_dict()
    adapted = add_latent_channels(weights, channels=4, patch_size=2)
    assert adapted.keys() == weights.keys()
    assert all(torch.equal(adapted[name], weights[name]) for name in weights)


def test_weights_for_more_channels_are_refused(tmp_path):
    make_dit(6).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pos_embed"):
        load_transformer(make_dit(4), tmp_path)
