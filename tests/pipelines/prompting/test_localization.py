"""Localization of a prompt's subjects in an image."""

import pytest
import torch
from diffusers import DDIMScheduler

from dianjing import TextToImagePipeline
from dianjing.pipelines.prompting.localization import _add_noise, compute_relevance_map, find_peaks
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.captions import make_concept_vocabulary

PAIRS = 8


def make_peak(row, column, *, value=1.0):
    relevance = torch.zeros(8, 8)
    relevance[row - 1 : row + 2, column - 1 : column + 2] = value
    return relevance


def test_each_subject_is_at_the_peak_of_its_map():
    assert find_peaks(torch.stack([make_peak(1, 2), make_peak(6, 5)]), [1, 1]) == [[(2, 1)], [(5, 6)]]


def test_a_peak_that_another_subject_explains_better_is_skipped():
    first = torch.maximum(make_peak(1, 2), make_peak(6, 5, value=1.5))
    assert find_peaks(torch.stack([first, make_peak(6, 5, value=3.0)]), [1, 1])[0] == [(2, 1)]


def test_two_subjects_of_a_kind_are_at_different_peaks():
    relevance = torch.maximum(make_peak(1, 1), make_peak(6, 6, value=0.7))
    assert find_peaks(relevance[None], [2]) == [[(1, 1), (6, 6)]]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_the_one_of_diffusers(kind):
    """A perfect prediction, given to diffusers' own scheduler, leads back to the clean latents."""
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False, set_alpha_to_one=False)
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy, target, timestep = _add_noise(scheduler, latents, noise)
    scheduler.set_timesteps(1000)
    x0 = scheduler.step(target, int(timestep), noisy).pred_original_sample
    torch.testing.assert_close(x0, latents, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_bundled_model_localizes_two_objects_of_held_out_scenes():
    """The peak of each object is inside its own box."""
    pipe = TextToImagePipeline.from_pretrained("sticker", dtype=torch.float32)
    parser = MotionPromptParser(MotionVocabulary(), make_concept_vocabulary())
    world = StickerWorld(
        size_px=pipe.default_size_px,
        stages=[CurriculumStage(scene_weights={"pair": 1.0}, grid_px=(32,))],
        split="held_out",
    )
    num_correct = 0
    for position in range(PAIRS):
        scene = world.get_captioned_clip(2, position, num_frames=1, fps=8)
        motion_prompt = parser.parse(scene.text_en)
        pixels = torch.from_numpy(scene.frames[0]).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
        embeds = pipe.encode_texts(
            [motion_prompt.static_prompt, *(part.prompt_without for part in motion_prompt.subjects)]
        )
        relevance_map = compute_relevance_map(
            pipe.transformer, pipe.scheduler, latents, embeds, image_meta_size=(pipe.default_size_px,) * 4 + (0, 0)
        )
        peaks = find_peaks(relevance_map, [1] * len(motion_prompt.subjects))
        for ((column, row),), box in zip(peaks, scene.boxes[0], strict=True):
            (x, y, width, height), side = box, pipe.vae_scale_factor
            num_correct += x <= (column + 0.5) * side < x + width and y <= (row + 0.5) * side < y + height
    assert num_correct >= 0.85 * 2 * PAIRS
