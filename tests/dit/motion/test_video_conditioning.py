"""Motion blocks and motion control on an image model."""

import logging
from dataclasses import replace

import pytest
import torch

from dianjing import DiT
from dianjing.dit.motion.control import MotionControl
from dianjing.dit.motion.warp import Warp
from dianjing.dit.rope import rope_3d, to_rotary_emb

TIMESTEPS = torch.tensor([900.0, 300.0])
NUM_FRAMES = 3


@pytest.fixture(params=[("pixelwise", 1), ("full", 2)], ids=lambda param: param[0])
def video_config(request):
    mode, interval = request.param
    return {
        "use_motion_blocks": True,
        "max_regions": 2,
        "use_style_cond_and_image_meta_size": False,
        "temporal_attention": mode,
        "motion_block_interval": interval,
        "use_flow_field": True,
    }


@pytest.fixture
def latents():
    return torch.randn(2, 4, NUM_FRAMES, 8, 8, generator=torch.Generator().manual_seed(1))


def make_control(model, *, batch_size=2, regions=2, num_frames=NUM_FRAMES):
    generator = torch.Generator().manual_seed(2)

    def sample(*shape):
        return torch.randn(*shape, generator=generator)

    mask = torch.ones(batch_size, regions, 5)
    mask[0, 1] = 0  # in the first clip one region is active
    return MotionControl(
        first_frame=sample(batch_size, 4, 8, 8),
        masks=(sample(batch_size, regions, 8, 8) > 0).float(),
        phrase_embeds=sample(batch_size, regions, 5, model.config.cross_attention_dim),
        phrase_mask=mask,
        strengths=sample(batch_size, regions).abs(),
        warp=Warp(sample(batch_size, num_frames, 4, 8, 8), (sample(batch_size, num_frames, regions, 8, 8) > 0).float()),
    )


def randomize_temporal_attention(model):
    """Give attention over time, which is zero-initialized, random weights."""
    with torch.no_grad():
        for block in model.motion_blocks:
            block.attn1.to_out[0].weight.normal_(std=0.3)
    return model


def randomize_zero_init(model):
    """Give all that is zero-initialized random weights."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (model.motion_blocks, model.motion_conditioner):
            for name, parameter in part.named_parameters():
                scale = 1e-4 if name == "warp_guidance.class_gate" else 0.3  # scaled by CLASS_GATE_SCALE
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def test_one_frame_equals_the_image_model_bit_for_bit(make_model, make_text, latents, video_config):
    image, video = make_model(use_style_cond_and_image_meta_size=False), randomize_zero_init(make_model(**video_config))
    video.load_state_dict(image.state_dict(), strict=False)
    text, frame = make_text(image), latents[:, :, 0]
    expected = image(frame, TIMESTEPS, **text).sample
    assert torch.equal(video(frame, TIMESTEPS, **text).sample, expected)
    assert torch.equal(video(latents[:, :, :1], TIMESTEPS, **text).sample[:, :, 0], expected)


@torch.no_grad()
def test_before_training_every_frame_equals_the_image_model(make_model, make_text, latents, video_config):
    image, video = make_model(use_style_cond_and_image_meta_size=False), make_model(**video_config)
    video.load_state_dict(image.state_dict(), strict=False)
    text = make_text(image)
    frames = video(latents, TIMESTEPS, **text, motion_control=make_control(video)).sample
    for index in range(NUM_FRAMES):
        expected = image(latents[:, :, index], TIMESTEPS, **text).sample
        assert torch.allclose(frames[:, :, index], expected, atol=1e-6)


@torch.no_grad()
def test_an_image_checkpoint_becomes_a_video_model_with_zero_initialized_parts(
    make_model, make_text, latents, tmp_path, caplog
):
    image = make_model(use_style_cond_and_image_meta_size=False)
    image.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        video = DiT.from_pretrained(tmp_path, use_motion_blocks=True, max_regions=2)
    assert all(
        name in caplog.text
        for name in ("motion_blocks.0.attn1.to_out.0.weight", "motion_conditioner.first_frame_patch.weight")
    )
    text = make_text(image)
    expected = image(latents[:, :, 1], TIMESTEPS, **text).sample
    frames = video(latents, TIMESTEPS, **text, motion_control=make_control(video)).sample
    assert torch.allclose(frames[:, :, 1], expected, atol=1e-6)


@torch.no_grad()
def test_a_precomputed_conditioning_of_a_video_gives_what_one_call_gives(make_model, make_text, latents, video_config):
    model = randomize_zero_init(make_model(**video_config))
    text, control = make_text(model), make_control(model)
    for active in (None, control):
        conditioning = model.compute_conditioning(
            TIMESTEPS, **text, latent_size=(8, 8), num_frames=NUM_FRAMES, motion_control=active
        )
        for step, timestep in enumerate(TIMESTEPS):
            direct = model(latents, timestep.expand(2), **text, motion_control=active).sample
            precomputed = model(latents, conditioning=conditioning.select_step(step)).sample
            assert torch.allclose(precomputed, direct, atol=1e-5)
    second = model(latents[1:], conditioning=conditioning.select_step(1).index_batch([1])).sample
    assert torch.allclose(second, precomputed[1:], atol=1e-5)


@torch.no_grad()
def test_frames_see_each_other_and_their_order(make_model, make_text, latents, video_config):
    model = randomize_zero_init(make_model(**video_config))
    text = make_text(model)
    expected = model(latents, TIMESTEPS, **text).sample
    changed = latents.clone()
    changed[:, :, 2] += 1
    assert not torch.allclose(model(changed, TIMESTEPS, **text).sample[:, :, 0], expected[:, :, 0], atol=1e-3)
    backwards = model(latents.flip(2), TIMESTEPS, **text).sample.flip(2)
    assert not torch.allclose(backwards, expected, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("part", ["first_frame", "masks", "phrase_embeds", "strengths", "warp"])
def test_every_part_of_motion_control_has_an_effect(make_model, make_text, latents, part, video_config):
    model = randomize_zero_init(make_model(**video_config))
    text, control = make_text(model), make_control(model)
    expected = model(latents, TIMESTEPS, **text, motion_control=control).sample
    tensor_or_warp = getattr(control, part)
    other = replace(
        control,
        **{part: tensor_or_warp.map_tensors(lambda tensor: 1 - tensor) if part == "warp" else 1 - tensor_or_warp},
    )
    assert not torch.allclose(model(latents, TIMESTEPS, **text, motion_control=other).sample, expected, atol=1e-3)


@torch.no_grad()
def test_frames_know_their_index_where_there_is_a_first_frame(make_model, make_text, video_config):
    """Equal latents in all frames: predictions differ if there is a first frame, and do not without one."""
    model = make_model(**video_config)
    with torch.no_grad():
        model.motion_conditioner.frame_embed.weight.normal_(generator=torch.Generator().manual_seed(4))
    text, control = make_text(model), make_control(model)
    latents = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1)).expand(-1, -1, NUM_FRAMES, -1, -1)
    with_frame = model(latents, TIMESTEPS, **text, motion_control=control).sample
    no_frame = replace(control, first_frame=torch.zeros_like(control.first_frame))
    assert not torch.allclose(with_frame[:, :, 1], with_frame[:, :, 2], atol=1e-3)
    without = model(latents, TIMESTEPS, **text, motion_control=no_frame).sample
    assert torch.allclose(without[:, :, 1], without[:, :, 2], atol=1e-5)


@torch.no_grad()
def test_a_region_without_a_phrase_has_no_effect(make_model, make_text, latents, video_config):
    model = randomize_zero_init(make_model(**video_config))
    text, control = make_text(model), make_control(model)
    expected = model(latents, TIMESTEPS, **text, motion_control=control).sample
    phrases, strengths = control.phrase_embeds.clone(), control.strengths.clone()
    phrases[0, 1], strengths[0, 1] = 7.0, 7.0  # of the region without a phrase
    other = replace(control, phrase_embeds=phrases, strengths=strengths)
    assert torch.allclose(model(latents, TIMESTEPS, **text, motion_control=other).sample, expected, atol=1e-5)


def test_gradients_reach_every_part_also_with_checkpointing(make_model, make_text, latents, video_config):
    model = randomize_zero_init(make_model(**video_config)).train()
    text, control = make_text(model), make_control(model)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(latents, TIMESTEPS, **text, motion_control=control).sample.square().mean().backward()
        outside_field = {  # the flow field acts on pixels, before the model
            name: weight
            for name, weight in model.named_parameters()
            if not name.startswith("motion_conditioner.flow_field.")
        }
        gradients.append({name: weight.grad.clone() for name, weight in outside_field.items()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().sum() > 0 or name.endswith("pooler.k_proj.bias"), name
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


@torch.no_grad()
def test_videos_in_bfloat16_follow_float32(make_model, make_text, latents, video_config):
    model = randomize_zero_init(make_model(**video_config, num_attention_heads=4, attention_head_dim=16)).bfloat16()
    text, control = make_text(model), make_control(model)
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in text.items()}
    active = replace(control.map_tensors(torch.Tensor.bfloat16), strengths=control.strengths)
    conditioning = model.compute_conditioning(
        TIMESTEPS[:1], **half, latent_size=(8, 8), num_frames=NUM_FRAMES, motion_control=active
    ).select_step(0)
    fast = model(latents.bfloat16(), conditioning=conditioning).sample.float()
    exact = model.float()(latents, TIMESTEPS[:1], **text, motion_control=control).sample
    assert (fast - exact).norm() / exact.norm() < 0.05


def test_motion_control_that_does_not_fit_is_refused(make_model, make_text, latents, video_config):
    model, image = make_model(**video_config), make_model(use_style_cond_and_image_meta_size=False)
    text, control = make_text(model), make_control(model)
    with pytest.raises(ValueError, match="trained without motion control"):
        image(latents, TIMESTEPS, **text, motion_control=control)
    with pytest.raises(ValueError, match="3 regions; this model takes 2"):
        model(latents, TIMESTEPS, **text, motion_control=make_control(model, regions=3))
    with pytest.raises(ValueError, match="motion control for 1 clips, but prompts for 2"):
        model(latents, TIMESTEPS, **text, motion_control=make_control(model, batch_size=1))
    with pytest.raises(ValueError, match="at least 2 frames"):
        model(latents[:, :, :1], TIMESTEPS, **text, motion_control=control)
    with pytest.raises(ValueError, match="max_regions 2 needs use_motion_blocks"):
        make_model(max_regions=2)


@torch.no_grad()
def test_pixelwise_attention_reaches_one_token_per_frame_and_full_attention_all(make_model, make_text, latents):
    reached = {}
    for mode in ("pixelwise", "full"):
        settings = {"use_motion_blocks": True, "use_style_cond_and_image_meta_size": False, "num_layers": 1}
        model = randomize_temporal_attention(make_model(**settings, temporal_attention=mode))
        block, (rows, columns) = model.motion_blocks[0], (4, 4)
        tokens = torch.randn(2 * NUM_FRAMES, rows * columns, model.inner_dim)
        text = make_text(model)
        video = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8), num_frames=NUM_FRAMES).video
        rotary_emb, text_kv = to_rotary_emb(video.rotary_table, as_complex=True), video.text_kv[0]
        changed = tokens.clone()
        changed[0, 5] = torch.randn(model.inner_dim)  # one token in frame 0 of the first clip
        before, after = (block(x, NUM_FRAMES, rotary_emb, text_kv) for x in (tokens, changed))
        changed_tokens = (after - before).abs().amax(dim=-1) > 1e-6
        assert not changed_tokens[NUM_FRAMES:].any()  # the other clip
        reached[mode] = changed_tokens[:NUM_FRAMES]
    assert reached["pixelwise"].nonzero()[:, 1].unique().tolist() == [5]
    assert reached["pixelwise"][:, 5].all()
    assert reached["full"].all()


@torch.no_grad()
def test_rotation_between_tokens_depends_on_their_distance_in_time_and_space_alone():
    rotation = rope_3d(3, 2, 4, head_dim=16)
    assert rotation.shape == (3, 8, 8, 2)
    angle = torch.view_as_complex(rotation.contiguous())
    # from one frame, row or column to the next the rotation is the same everywhere
    by_axis = angle.view(3, 2, 4, 8)
    for axis in range(3):
        after, before = (
            by_axis.narrow(axis, 1, by_axis.shape[axis] - 1),
            by_axis.narrow(axis, 0, by_axis.shape[axis] - 1),
        )
        rotary_emb = (after * before.conj()).flatten(0, 2)
        torch.testing.assert_close(rotary_emb, rotary_emb[:1].expand_as(rotary_emb))
    assert len({tuple(row) for row in angle.flatten(0, 1).real.round(decimals=4).tolist()}) == 24


def test_an_unknown_temporal_attention_is_refused(make_model):
    with pytest.raises(ValueError, match="choose one of pixelwise, full"):
        make_model(use_motion_blocks=True, temporal_attention="frame")


@torch.no_grad()
def test_fewer_motion_blocks_equal_more_with_zero_initialized_ones_between(
    make_model, make_text, latents, video_config
):
    settings = {**video_config, "num_layers": 4}
    few, all_ = (
        randomize_zero_init(make_model(**{**settings, "motion_block_interval": 2})),
        make_model(**{**settings, "motion_block_interval": 1}),
    )
    all_.load_state_dict({k: v for k, v in few.state_dict().items() if "motion_blocks" not in k}, strict=False)
    for block, layer in zip(few.motion_blocks, (1, 3), strict=True):
        all_.motion_blocks[layer].load_state_dict(block.state_dict())
    text, control = make_text(few), make_control(few)
    expected = all_(latents, TIMESTEPS, **text, motion_control=control).sample
    assert torch.allclose(few(latents, TIMESTEPS, **text, motion_control=control).sample, expected, atol=1e-6)
    assert not torch.allclose(few(latents, TIMESTEPS, **text).sample, expected, atol=1e-3)


@pytest.mark.parametrize("interval", [0, 4])
def test_a_motion_block_interval_out_of_range_is_refused(make_model, interval):
    with pytest.raises(ValueError, match="with 3 layers it must be from 1 to 3"):
        make_model(use_motion_blocks=True, num_layers=3, motion_block_interval=interval)
