"""Golden cases of the transformer alone: tiny, of random weights, on the inputs in inputs/transformer.npz.

`forward` is called by name, because a language server cannot tell the parameters of a module that is called itself.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor

from dianjing import DiT
from dianjing.dit.motion.control import MotionControl
from dianjing.dit.motion.warp import Warp
from tests.golden.results import Results, array, load

INPUTS = Path(__file__).parent / "inputs" / "transformer.npz"
TIMESTEPS = torch.tensor([900.0, 300.0])
NUM_FRAMES = 3


def make_inputs() -> dict[str, Tensor]:
    """New random inputs; those in the folder were made by it once, and are read by the cases."""
    generator = torch.Generator().manual_seed(17)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "picture": normal(2, 4, 8, 8),
        "video": normal(2, 4, NUM_FRAMES, 8, 8),
        "text": normal(2, 5, 12),
        "text mask": (normal(2, 5) < 0.5).long(),
        "text 2": normal(2, 6, 16),
        "text mask 2": (normal(2, 6) < 0.5).long(),
        "size": 500 + 100 * normal(2, 6),
        "residual": normal(2, 16, 24),
        "first frame": normal(2, 4, 8, 8),
        "masks": (normal(2, 2, 8, 8) > 0).float(),
        "phrases": normal(2, 2, 5, 12),
        "phrases mask": torch.tensor([[1.0, 0.0], [1.0, 1.0]])[..., None].expand(2, 2, 5),
        "strengths": normal(2, 2).abs(),
        "warped": normal(2, NUM_FRAMES, 4, 8, 8),
        "coverage": (normal(2, NUM_FRAMES, 2, 8, 8) > 0).float(),
    }


def inputs() -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in load(INPUTS).items()}


def make_model(*, has_size: bool = False, is_video: bool = False, has_field: bool = False) -> DiT:
    model = DiT(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=12,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
        text_len=5,
        text_len_t5=6,
        sample_size=8,
        use_style_cond_and_image_meta_size=has_size,
        use_motion_blocks=is_video,
        max_regions=2 if is_video else 0,
        use_flow_field=has_field,
    )
    return randomized(model)


def randomized(model: DiT) -> DiT:
    """Noise on every weight, in the order of the parameters, so that none starts at zero or one."""
    generator = torch.Generator().manual_seed(18)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def text_of(given: Mapping[str, Tensor], *, has_size: bool = False) -> dict[str, Tensor]:
    """What diffusers' class takes of text and size, by its names."""
    text = {
        "encoder_hidden_states": given["text"],
        "text_embedding_mask": given["text mask"],
        "encoder_hidden_states_t5": given["text 2"],
        "text_embedding_mask_t5": given["text mask 2"],
    }
    return text | ({"image_meta_size": given["size"], "style": torch.zeros(2, dtype=torch.long)} if has_size else {})


def click_of(given: Mapping[str, Tensor]) -> MotionControl:
    return MotionControl(
        first_frame=given["first frame"],
        masks=given["masks"],
        phrase_embeds=given["phrases"],
        phrase_mask=given["phrases mask"],
        strengths=given["strengths"],
        warp=Warp(given["warped"], given["coverage"]),
    )


@torch.no_grad()
def picture(folder: Path) -> Results:
    """One call, with and without size, with residuals of a ControlNet; diffusers' class and its positions."""
    given, results = inputs(), {}
    for name, has_size in {"with size": True, "plain": False}.items():
        torch.manual_seed(3)
        model, text = make_model(has_size=has_size), text_of(given, has_size=has_size)
        results[name] = array(model.forward(given["picture"], TIMESTEPS, **text).sample)
        residuals = [given["residual"]]
        controlled = model.forward(given["picture"], TIMESTEPS, **text, controlnet_block_samples=residuals).sample
        results[f"{name} controlled"] = array(controlled)
        prepared = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8))
        for step in range(2):
            sample = model.forward(given["picture"], conditioning=prepared.select_step(step)).sample
            results[f"{name} prepared {step}"] = array(sample)
        twice = model.forward(
            given["picture"][[0, 0, 1]], conditioning=prepared.select_step(1).index_batch([0, 0, 1])
        ).sample
        results[f"{name} rows"] = array(twice)
    span = get_resize_crop_region_for_grid((4, 4), 32)
    positions = get_2d_rotary_pos_embed(8, span, (4, 4))
    torch.manual_seed(3)
    ours, text = make_model(has_size=True), text_of(given, has_size=True)
    theirs = HunyuanDiT2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=12,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
        text_len=5,
        text_len_t5=6,
        sample_size=8,
        hidden_size=24,
        use_style_cond_and_image_meta_size=True,
        activation_fn="gelu-approximate",
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    arguments = {"image_rotary_emb": positions, **text}
    results["ours at their positions"] = array(ours.forward(given["picture"], TIMESTEPS, **arguments).sample)
    results["theirs"] = array(theirs(given["picture"], TIMESTEPS, **arguments).sample)
    return results


@torch.no_grad()
def video(folder: Path) -> Results:
    """Frames without and with a click, in one call and prepared, with and without a motion field."""
    given, results = inputs(), {}
    text = text_of(given)
    for name, has_field in {"plain": False, "field": True}.items():
        torch.manual_seed(4)
        model = make_model(is_video=True, has_field=has_field)
        results[f"{name} frames"] = array(model.forward(given["video"], TIMESTEPS, **text).sample)
        click = click_of(given)
        results[f"{name} click"] = array(model.forward(given["video"], TIMESTEPS, **text, motion_control=click).sample)
        prepared = model.compute_conditioning(
            TIMESTEPS, **text, latent_size=(8, 8), num_frames=NUM_FRAMES, motion_control=click
        )
        sample = model.forward(given["video"], conditioning=prepared.select_step(1)).sample
        results[f"{name} prepared"] = array(sample)
        shorter = prepared.select_step(0).truncate(NUM_FRAMES - 1)
        results[f"{name} shorter"] = array(model.forward(given["video"][:, :, :-1], conditioning=shorter).sample)
        one = model.forward(given["video"][:, :, 0], TIMESTEPS, **text).sample
        results[f"{name} one frame"] = array(one)
    return results


@torch.no_grad()
def half(folder: Path) -> Results:
    """bfloat16: the fused blocks of a CPU where its kernels are there, for pictures and for frames with a click."""
    given, results = inputs(), {}
    torch.manual_seed(5)
    model = make_model(is_video=True, has_field=True).bfloat16()
    text = {name: each.bfloat16() if each.is_floating_point() else each for name, each in text_of(given).items()}
    click = click_of({name: each if name == "strengths" else each.bfloat16() for name, each in given.items()})
    prepared = model.compute_conditioning(TIMESTEPS, **text, latent_size=(8, 8))
    results["picture"] = array(model.forward(given["picture"].bfloat16(), conditioning=prepared.select_step(0)).sample)
    prepared = model.compute_conditioning(
        TIMESTEPS, **text, latent_size=(8, 8), num_frames=NUM_FRAMES, motion_control=click
    )
    results["click"] = array(model.forward(given["video"].bfloat16(), conditioning=prepared.select_step(1)).sample)
    return results


def gradients(folder: Path) -> Results:
    """Gradients of all weights and of the latents, by their order."""
    given = inputs()
    torch.manual_seed(6)
    model = make_model(is_video=True, has_field=True)
    latents = given["video"].requires_grad_()
    model.forward(
        latents, TIMESTEPS, **text_of(given), motion_control=click_of(given)
    ).sample.square().mean().backward()
    assert latents.grad is not None
    norms = [torch.zeros(()) if p.grad is None else p.grad.double().norm() for p in model.parameters()]
    return {"latents": array(latents.grad), "norms": array(torch.stack([norm.double() for norm in norms]))}
