"""A folder saved by diffusers' HunyuanDiTPipeline generates the same image here."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import HunyuanDiTPipeline
from diffusers.models.embeddings import get_2d_rotary_pos_embed_from_grid
from diffusers.pipelines.hunyuandit import pipeline_hunyuandit

from dianjing import DiT, TextToImagePipeline

CALL = {
    "prompt": ["草地上的一只小猫", "two red hearts"],
    "negative_prompt": ["a dog", ""],
    "num_inference_steps": 4,
    "height": 64,
    "width": 64,
}
TOLERANCE = 1e-4  # relative L2, float32


@pytest.fixture(scope="module", params=[True, False], ids=["with size and style", "without"])
def pair(request, make_hunyuan, tmp_path_factory):
    """Their pipeline, and ours loaded from the folder that theirs saved."""
    theirs = make_hunyuan(with_size=request.param)
    folder = tmp_path_factory.mktemp("hunyuan")
    theirs.save_pretrained(folder)
    ours = TextToImagePipeline.from_pretrained(folder)
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    return theirs, ours


def generate(pipe, **settings):
    settings = {**CALL, "generator": torch.Generator().manual_seed(0), "output_type": "pt", **settings}
    return pipe(**settings, use_resolution_binning=False).images


def error(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def compute_correct_rotary_embed(embed_dim, crops_coords, grid_size, device=None, output_type="pt"):
    """Compute positions as the original code does: from start to stop, which is excluded."""
    rows, columns = (
        np.linspace(start, stop, count, endpoint=False, dtype=np.float32)
        for start, stop, count in zip(*crops_coords, grid_size, strict=True)
    )
    grid = torch.from_numpy(np.stack(np.meshgrid(columns, rows)))
    return get_2d_rotary_pos_embed_from_grid(embed_dim, grid[:, None], use_real=True)


@pytest.mark.parametrize("output_type", ["latent", "pt"])
@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_scale": 5.0},
        {"guidance_scale": 5.0, "guidance_rescale": 0.7},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0, "eta": 0.5},
        {"original_size": (512, 768), "target_size": (640, 512), "crops_coords_top_left": (8, 16)},
        {"height": 128, "width": 128},
    ],
    ids=str,
)
def test_a_saved_folder_generates_the_same_image(pair, settings, output_type):
    theirs, ours = (generate(pipe, output_type=output_type, **settings) for pipe in pair)
    assert error(ours, theirs) <= TOLERANCE


def test_the_transformer_of_their_folder_is_ours(pair):
    assert isinstance(pair[1].transformer, DiT)


@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler",
        "PNDMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "UniPCMultistepScheduler",
        "LMSDiscreteScheduler",
    ],
)
def test_a_scheduler_set_by_assignment_gives_the_same_latents(pair, name, monkeypatch):
    config = pair[1].scheduler.config
    results = []
    for pipe in pair:
        monkeypatch.setattr(pipe, "scheduler", getattr(diffusers, name).from_config(config))
        results.append(generate(pipe, output_type="latent"))
    assert error(results[1], results[0]) <= TOLERANCE


@pytest.mark.parametrize("size", [{"height": 64, "width": 128}, {"height": 160, "width": 96}], ids=str)
def test_an_image_that_is_not_square_is_the_same_with_correct_positions(pair, size, monkeypatch):
    """diffusers 0.42 scales only the stop of its position grid, which is wrong where the start is not 0."""
    theirs, ours = pair
    wrong = generate(theirs, output_type="latent", **size)
    monkeypatch.setattr(pipeline_hunyuandit, "get_2d_rotary_pos_embed", compute_correct_rotary_embed)
    correct = generate(theirs, output_type="latent", **size)
    assert error(wrong, correct) > TOLERANCE, "diffusers has corrected its positions: compare with it directly"
    assert error(generate(ours, output_type="latent", **size), correct) <= TOLERANCE


def test_diffusers_generates_the_same_from_a_folder_that_we_saved(pair, tmp_path):
    _, ours = pair
    ours.save_pretrained(tmp_path)
    theirs = HunyuanDiTPipeline.from_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    assert error(generate(ours), generate(theirs)) <= TOLERANCE


def test_bfloat16_stays_as_near_to_float32_as_theirs(pair):
    """Timesteps and latents stay in float32 here; diffusers rounds both to bfloat16, which has no 501."""
    settings = {"num_inference_steps": 12, "output_type": "latent"}
    errors = []
    for pipe in pair:
        half = type(pipe).from_pretrained(pair[1].name_or_path, dtype=torch.bfloat16)
        half.set_progress_bar_config(disable=True)
        errors.append(error(generate(half, **settings).float(), generate(pipe, **settings)))
    theirs, ours = errors
    assert ours < 1.25 * theirs < 0.05
