"""Time and clicks on the picture model."""

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
def film_settings(request):
    span, every = request.param
    return {
        "use_motion_blocks": True,
        "max_regions": 2,
        "use_style_cond_and_image_meta_size": False,
        "temporal_attention": span,
        "motion_block_interval": every,
        "use_flow_field": True,
    }


@pytest.fixture
def latents():
    return torch.randn(2, 4, NUM_FRAMES, 8, 8, generator=torch.Generator().manual_seed(1))


def make_click(model, *, batch_size=2, regions=2, num_frames=NUM_FRAMES):
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    mask = torch.ones(batch_size, regions, 5)
    mask[0, 1] = 0  # the first clip asks for one region only
    return MotionControl(
        first_frame=draw(batch_size, 4, 8, 8),
        masks=(draw(batch_size, regions, 8, 8) > 0).float(),
        phrase_embeds=draw(batch_size, regions, 5, model.config.cross_attention_dim),
        phrase_mask=mask,
        strengths=draw(batch_size, regions).abs(),
        warp=Warp(draw(batch_size, num_frames, 4, 8, 8), (draw(batch_size, num_frames, regions, 8, 8) > 0).float()),
    )


def wake_motion(model):
    """Random weights where the attention over time starts from zero."""
    with torch.no_grad():
        for block in model.motion_blocks:
            block.attn1.to_out[0].weight.normal_(std=0.3)
    return model


def wake(model):
    """Random weights where training starts from zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (model.motion_blocks, model.motion_conditioner):
            for name, parameter in part.named_parameters():
                scale = 1e-4 if name == "warp_guidance.class_gate" else 0.3  # counts a hundredfold
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def test_one_frame_is_the_picture_to_the_bit(make_model, make_text, latents, film_settings):
    picture, film = make_model(use_style_cond_and_image_meta_size=False), wake(make_model(**film_settings))
    film.load_state_dict(picture.state_dict(), strict=False)
    text, frame = make_text(picture), latents[:, :, 0]
    expected = picture(frame, TIMESTEPS, **text).sample
    assert torch.equal(film(frame, TIMESTEPS, **text).sample, expected)
    assert torch.equal(film(latents[:, :, :1], TIMESTEPS, **text).sample[:, :, 0], expected)


@torch.no_grad()
def test_before_training_every_frame_is_the_picture_of_its_latents(make_model, make_text, latents, film_settings):
    picture, film = make_model(use_style_cond_and_image_meta_size=False), make_model(**film_settings)
    film.load_state_dict(picture.state_dict(), strict=False)
    text = make_text(picture)
    frames = film(latents, TIMESTEPS, **text, motion_control=make_click(film)).sample
    for index in range(NUM_FRAMES):
        expected = picture(latents[:, :, index], TIMESTEPS, **text).sample
        assert torch.allclose(frames[:, :, index], expected, atol=1e-6)


@torch.no_grad()
def test_a_picture_checkpoint_becomes_a_film_model_with_new_parts_at_zero(
    make_model, make_text, latents, tmp_path, caplog
):
    picture = make_model(use_style_cond_and_image_meta_size=False)
    picture.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        film = DiT.from_pretrained(tmp_path, use_motion_blocks=True, max_regions=2)
    assert all(
        name in caplog.text
        for name in ("motion_blocks.0.attn1.to_out.0.weight", "motion_conditioner.first_frame_patch.weight")
    )
    text = make_text(picture)
    expected = picture(latents[:, :, 1], TIMESTEPS, **text).sample
    frames = film(latents, TIMESTEPS, **text, motion_control=make_click(film)).sample
    assert torch.allclose(frames[:, :, 1], expected, atol=1e-6)


@torch.no_grad()
def test_the_two_phases_of_film_equal_one_call(make_model, make_text, latents, film_settings):
    model = wake(make_model(**film_settings))
    text, click = make_text(model), make_click(model)
    for asked in (None, click):
        condition = model.compute_conditioning(
            TIMESTEPS, **text, latent_size=(8, 8), num_frames=NUM_FRAMES, motion_control=asked
        )
        for step, timestep in enumerate(TIMESTEPS):
            once = model(latents, timestep.expand(2), **text, motion_control=asked).sample
            twice = model(latents, conditioning=condition.select_step(step)).sample
            assert torch.allclose(twice, once, atol=1e-5)
    second = model(latents[1:], conditioning=condition.select_step(1).index_batch([1])).sample
    assert torch.allclose(second, twice[1:], atol=1e-5)


@torch.no_grad()
def test_frames_see_each_other_and_their_order(make_model, make_text, latents, film_settings):
    model = wake(make_model(**film_settings))
    text = make_text(model)
    whole = model(latents, TIMESTEPS, **text).sample
    changed = latents.clone()
    changed[:, :, 2] += 1
    assert not torch.allclose(model(changed, TIMESTEPS, **text).sample[:, :, 0], whole[:, :, 0], atol=1e-3)
    backwards = model(latents.flip(2), TIMESTEPS, **text).sample.flip(2)
    assert not torch.allclose(backwards, whole, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("part", ["first_frame", "masks", "phrase_embeds", "strengths", "warp"])
def test_every_part_of_a_click_counts(make_model, make_text, latents, part, film_settings):
    model = wake(make_model(**film_settings))
    text, click = make_text(model), make_click(model)
    whole = model(latents, TIMESTEPS, **text, motion_control=click).sample
    given = getattr(click, part)
    other = replace(click, **{part: given.map_tensors(lambda tensor: 1 - tensor) if part == "warp" else 1 - given})
    assert not torch.allclose(model(latents, TIMESTEPS, **text, motion_control=other).sample, whole, atol=1e-3)


@torch.no_grad()
def test_frames_know_how_long_ago_the_first_was_where_it_is_shown(make_model, make_text, film_settings):
    """All frames alike but for the time: they differ after a first frame, and do not without one."""
    model = make_model(**film_settings)
    with torch.no_grad():
        model.motion_conditioner.frame_embed.weight.normal_(generator=torch.Generator().manual_seed(4))
    text, click = make_text(model), make_click(model)
    alike = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1)).expand(-1, -1, NUM_FRAMES, -1, -1)
    shown = model(alike, TIMESTEPS, **text, motion_control=click).sample
    hidden = replace(click, first_frame=torch.zeros_like(click.first_frame))
    assert not torch.allclose(shown[:, :, 1], shown[:, :, 2], atol=1e-3)
    unaware = model(alike, TIMESTEPS, **text, motion_control=hidden).sample
    assert torch.allclose(unaware[:, :, 1], unaware[:, :, 2], atol=1e-5)


@torch.no_grad()
def test_a_region_without_a_phrase_asks_for_nothing(make_model, make_text, latents, film_settings):
    model = wake(make_model(**film_settings))
    text, click = make_text(model), make_click(model)
    whole = model(latents, TIMESTEPS, **text, motion_control=click).sample
    phrases, strengths = click.phrase_embeds.clone(), click.strengths.clone()
    phrases[0, 1], strengths[0, 1] = 7.0, 7.0  # of the region that has no phrase
    other = replace(click, phrase_embeds=phrases, strengths=strengths)
    assert torch.allclose(model(latents, TIMESTEPS, **text, motion_control=other).sample, whole, atol=1e-5)


def test_gradients_reach_every_part_also_with_checkpointing(make_model, make_text, latents, film_settings):
    model = wake(make_model(**film_settings)).train()
    text, click = make_text(model), make_click(model)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(latents, TIMESTEPS, **text, motion_control=click).sample.square().mean().backward()
        own = {
            name: weight
            for name, weight in model.named_parameters()
            if not name.startswith("motion_conditioner.flow_field.")
        }
        found.append({name: weight.grad.clone() for name, weight in own.items()})  # the field acts before, on pictures
    for name, gradient in found[0].items():
        assert gradient.abs().sum() > 0 or name.endswith("pooler.k_proj.bias"), name
        assert torch.allclose(gradient, found[1][name], atol=1e-5), name


@torch.no_grad()
def test_film_in_bfloat16_follows_float32(make_model, make_text, latents, film_settings):
    model = wake(make_model(**film_settings, num_attention_heads=4, attention_head_dim=16)).bfloat16()
    text, click = make_text(model), make_click(model)
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in text.items()}
    asked = replace(click.map_tensors(torch.Tensor.bfloat16), strengths=click.strengths)
    condition = model.compute_conditioning(
        TIMESTEPS[:1], **half, latent_size=(8, 8), num_frames=NUM_FRAMES, motion_control=asked
    ).select_step(0)
    fast = model(latents.bfloat16(), conditioning=condition).sample.float()
    exact = model.float()(latents, TIMESTEPS[:1], **text, motion_control=click).sample
    assert (fast - exact).norm() / exact.norm() < 0.05


def test_clicks_that_do_not_fit_are_refused(make_model, make_text, latents, film_settings):
    model, picture = make_model(**film_settings), make_model(use_style_cond_and_image_meta_size=False)
    text, click = make_text(model), make_click(model)
    with pytest.raises(ValueError, match="trained without clicks"):
        picture(latents, TIMESTEPS, **text, motion_control=click)
    with pytest.raises(ValueError, match="3 regions; this model takes 2"):
        model(latents, TIMESTEPS, **text, motion_control=make_click(model, regions=3))
    with pytest.raises(ValueError, match="clicks for 1 clips, but latents of 2"):
        model(latents, TIMESTEPS, **text, motion_control=make_click(model, batch_size=1))
    with pytest.raises(ValueError, match="at least 2 frames"):
        model(latents[:, :, :1], TIMESTEPS, **text, motion_control=click)
    with pytest.raises(ValueError, match="max_regions 2 needs use_motion_blocks"):
        make_model(max_regions=2)


@torch.no_grad()
def test_how_far_a_place_sees_over_time_is_its_span(make_model, make_text, latents):
    seen = {}
    for span in ("pixelwise", "full"):
        settings = {"use_motion_blocks": True, "use_style_cond_and_image_meta_size": False, "num_layers": 1}
        model = wake_motion(make_model(**settings, temporal_attention=span))
        block, (rows, columns) = model.motion_blocks[0], (4, 4)
        tokens = torch.randn(2 * NUM_FRAMES, rows * columns, model.inner_dim)
        text = make_text(model)
        film = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8), num_frames=NUM_FRAMES).video
        turns, said = to_rotary_emb(film.rotary_table, as_complex=True), film.text_kv[0]
        changed = tokens.clone()
        changed[0, 5] = torch.randn(model.inner_dim)  # frame 0 of the first clip, one place
        before, after = (block(x, NUM_FRAMES, turns, said) for x in (tokens, changed))
        moved = (after - before).abs().amax(dim=-1) > 1e-6
        assert not moved[NUM_FRAMES:].any()  # the other clip
        seen[span] = moved[:NUM_FRAMES]
    assert seen["pixelwise"].nonzero()[:, 1].unique().tolist() == [5]
    assert seen["pixelwise"][:, 5].all()
    assert seen["full"].all()


@torch.no_grad()
def test_places_in_frames_turn_by_their_distance_in_time_and_space():
    rotation = rope_3d(3, 2, 4, head_dim=16)
    assert rotation.shape == (3, 8, 8, 2)
    angle = torch.view_as_complex(rotation.contiguous())
    # from one frame, row or column to the next the turn is the same wherever one stands
    by_place = angle.view(3, 2, 4, 8)
    for axis in range(3):
        after, before = (
            by_place.narrow(axis, 1, by_place.shape[axis] - 1),
            by_place.narrow(axis, 0, by_place.shape[axis] - 1),
        )
        turns = (after * before.conj()).flatten(0, 2)
        torch.testing.assert_close(turns, turns[:1].expand_as(turns))
    assert len({tuple(row) for row in angle.flatten(0, 1).real.round(decimals=4).tolist()}) == 24


def test_an_unknown_span_is_refused(make_model):
    with pytest.raises(ValueError, match="'pixelwise' and 'full'"):
        make_model(use_motion_blocks=True, temporal_attention="frame")


@torch.no_grad()
def test_fewer_motion_blocks_are_as_if_those_between_did_nothing(make_model, make_text, latents, film_settings):
    settings = {**film_settings, "num_layers": 4}
    few, all_ = (
        wake(make_model(**{**settings, "motion_block_interval": 2})),
        make_model(**{**settings, "motion_block_interval": 1}),
    )
    all_.load_state_dict({k: v for k, v in few.state_dict().items() if "motion_blocks" not in k}, strict=False)
    for block, layer in zip(few.motion_blocks, (1, 3), strict=True):
        all_.motion_blocks[layer].load_state_dict(block.state_dict())
    text, click = make_text(few), make_click(few)
    expected = all_(latents, TIMESTEPS, **text, motion_control=click).sample
    assert torch.allclose(few(latents, TIMESTEPS, **text, motion_control=click).sample, expected, atol=1e-6)
    assert not torch.allclose(few(latents, TIMESTEPS, **text).sample, expected, atol=1e-3)


@pytest.mark.parametrize("every", [0, 4])
def test_motion_blocks_that_there_cannot_be_are_refused(make_model, every):
    with pytest.raises(ValueError, match="of 3 layers it is 1 to 3"):
        make_model(use_motion_blocks=True, num_layers=3, motion_block_interval=every)
