"""An image changes inside the boxes of edited objects only, and objects are composited at any size."""

import re
from pathlib import Path

import pytest
import torch

from dianjing.pipelines.conversation import renderer as renderer_module
from dianjing.pipelines.conversation.edits import AddObject, NewScene, ObjectSpec, ResizeObject, apply_edit
from dianjing.pipelines.conversation.renderer import BLACK_BACKGROUND, TRAINED_BOXES, WHITE_BACKGROUND, SceneRenderer
from dianjing.pipelines.conversation.scene import Box, SceneObject


@pytest.fixture
def renderer(loaded, concept_vocabulary):
    return SceneRenderer(
        loaded, concept_vocabulary=concept_vocabulary, seed=5, num_inference_steps=2, guidance_scale=None
    )


def test_with_an_empty_mask_denoising_changes_nothing(renderer):
    image_latents = torch.randn(1, 4, 8, 8)
    unchanged = renderer._denoise("a cat", image_latents=image_latents, mask=torch.zeros(8, 8))
    assert torch.equal(unchanged, image_latents)
    latents = renderer._denoise("a cat", image_latents=image_latents, mask=torch.ones(8, 8))
    assert not torch.equal(latents, image_latents)


def test_with_a_full_mask_the_result_is_that_of_the_pipeline(renderer, pipe):
    mask = torch.ones(8, 8)
    latents = renderer._denoise("a cat", image_latents=renderer.noise, mask=mask)
    settings = {"num_inference_steps": 2, "output_type": "latent", "original_size": (64, 64), "target_size": (64, 64)}
    expected = pipe("a cat", generator=torch.Generator().manual_seed(5), **settings).images
    torch.testing.assert_close(latents, expected)


def test_every_step_is_a_step_of_an_ordinary_call(renderer, loaded):
    """Whoever observes the pipeline sees all steps, and the renderer uses no private attribute of it."""
    scene = apply_edit(None, NewScene(specs=(ObjectSpec(name="dog", position="top"),), background="sea"))
    steps = []
    with loaded.observe_steps(steps.append):
        renderer.render(scene, language="en")
    assert [step.index for step in steps] == [0, 1] * 3  # the background twice, and the object
    assert not re.search(r"pipe\._", Path(renderer_module.__file__).read_text(encoding="utf-8"))


def test_a_background_is_rendered_once(renderer, monkeypatch):
    texts = []
    denoise = renderer._denoise
    monkeypatch.setattr(renderer, "_denoise", lambda text, **where: texts.append(text) or denoise(text, **where))
    scene = apply_edit(None, NewScene(specs=(ObjectSpec(name="dog", position="top"),), background="sea"))
    renderer.render(scene, language="en")
    renderer.render(scene, language="en")
    assert texts == [
        "a cat at the top left at sea",
        "a cat at the bottom right at sea",
        *["a dog at the top at sea"] * 2,
    ]


@pytest.mark.parametrize(
    ("box", "expected"), [(Box(x=2, y=2, side=4), set()), (Box(x=5, y=0, side=3), {WHITE_BACKGROUND, BLACK_BACKGROUND})]
)
def test_only_objects_in_untrained_boxes_are_composited(renderer, monkeypatch, box, expected):
    backgrounds = set()
    background_latents = renderer.background_latents
    monkeypatch.setattr(
        renderer,
        "background_latents",
        lambda background, language: backgrounds.add(background) or background_latents(None, language),
    )
    scene = apply_edit(None, NewScene(specs=(ObjectSpec(name="dog"),))).with_object(0, boxes=(box,))
    renderer.render(scene, language="en")
    assert backgrounds - {None} == expected
    assert (box in TRAINED_BOXES) == (not expected)


def test_the_matte_is_recovered_from_white_and_black(renderer, monkeypatch):
    """A red disc with a soft rim over plain white and plain black."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    alpha = (12 - (x**2 + y**2).sqrt()).clamp(0, 1)[None, None]
    red = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1)
    over = {
        name: alpha * red + (1 - alpha) * level for name, level in ((WHITE_BACKGROUND, 1.0), (BLACK_BACKGROUND, 0.0))
    }
    empty = {
        name: torch.full((1, 3, 64, 64), level) for name, level in ((WHITE_BACKGROUND, 1.0), (BLACK_BACKGROUND, 0.0))
    }
    monkeypatch.setattr(renderer, "background_latents", lambda background, language: ("background_latents", background))
    monkeypatch.setattr(
        renderer,
        "_inpaint_object",
        lambda latents, scene_object, box, mask, background, language: ("drawn", background),
    )
    monkeypatch.setattr(
        renderer, "_decode_pixels", lambda what: (empty if what[0] == "background_latents" else over)[what[1]]
    )
    premultiplied_rgb, found = renderer.extract_matte(SceneObject(name="apple", boxes=(Box(x=2, y=2, side=4),)), "en")
    inside = alpha[..., 16:48, 16:48]
    assert found[inside == 1].min() == 1
    assert found[inside == 0].max() == 0
    torch.testing.assert_close(premultiplied_rgb[:, :, 14:18, 14:18], red.expand(1, 3, 4, 4))


def test_over_two_equal_backgrounds_the_matte_is_opaque(renderer, monkeypatch):
    """A model that renders white and black alike, as random weights may, tells nothing of transparency."""
    monkeypatch.setattr(renderer, "background_latents", lambda background, language: 1.0)
    monkeypatch.setattr(renderer, "_inpaint_object", lambda *arguments: 0.5)
    monkeypatch.setattr(renderer, "_decode_pixels", lambda level: torch.full((1, 3, 64, 64), level))
    premultiplied_rgb, alpha = renderer.extract_matte(SceneObject(name="apple", boxes=(Box(x=2, y=2, side=4),)), "en")
    assert (alpha == 1).all()
    assert (premultiplied_rgb == 0.5).all()


def test_an_object_under_a_removed_one_is_restored(renderer):
    lone = apply_edit(None, NewScene(specs=(ObjectSpec(name="cat"),), background="sea"))
    both = apply_edit(lone, AddObject(spec=ObjectSpec(name="dog", position="top left")))
    assert both.objects[1].boxes[0].count_shared_cells(both.objects[0].boxes[0]) > 0
    first = renderer.render(lone, language="en")
    second = renderer.render(both, language="en", previous=(lone, first))
    third = renderer.render(lone, language="en", previous=(both, second))
    assert not torch.equal(second, first)
    torch.testing.assert_close(third, first)


def test_a_resized_object_leaves_the_rest_of_the_image(renderer):
    scene = apply_edit(None, NewScene(specs=(ObjectSpec(name="cat", position="left"),), background="sea"))
    grown = apply_edit(scene, ResizeObject(target=0, direction="bigger"))
    before = renderer.render(scene, language="en")
    after = renderer.render(grown, language="en", previous=(scene, before))
    outside = (renderer._make_mask(grown.boxes) + renderer._make_mask(scene.boxes)) == 0
    assert torch.equal(after[..., outside], before[..., outside])
    assert not torch.equal(after, before)
