"""A picture changes inside the boxes of what changed, and objects are laid over it at any size."""

import pytest
import torch

from dianjing.pipelines.conversation.edits import Add, Draw, Resize, Wanted, apply
from dianjing.pipelines.conversation.painting import BLACK, TAUGHT, WHITE, Painter
from dianjing.pipelines.conversation.scenes import Box, Thing


@pytest.fixture
def painter(loaded, names):
    return Painter(loaded, names=names, seed=5, steps=2, guidance=None)


def test_where_nothing_is_free_denoising_changes_nothing(painter):
    start = torch.randn(1, 4, 8, 8)
    kept = painter._denoise("a cat", start=start, free=torch.zeros(8, 8))
    assert torch.equal(kept, start)
    drawn = painter._denoise("a cat", start=start, free=torch.ones(8, 8))
    assert not torch.equal(drawn, start)


def test_a_whole_picture_is_what_the_pipeline_draws_from_that_noise(painter, pipe):
    free = torch.ones(8, 8)
    drawn = painter._denoise("a cat", start=painter.noise, free=free)
    settings = {"num_inference_steps": 2, "output_type": "latent", "original_size": (64, 64), "target_size": (64, 64)}
    expected = pipe("a cat", generator=torch.Generator().manual_seed(5), **settings).images
    torch.testing.assert_close(drawn, expected)


def test_the_plate_of_a_background_is_drawn_once(painter, monkeypatch):
    texts = []
    denoise = painter._denoise
    monkeypatch.setattr(painter, "_denoise", lambda text, **where: texts.append(text) or denoise(text, **where))
    scene = apply(None, Draw(wanted=(Wanted(name="dog", place="top"),), background="sea"))
    painter.paint(scene, language="en")
    painter.paint(scene, language="en")
    assert texts == [
        "a cat at the top left at sea", "a cat at the bottom right at sea", *["a dog at the top at sea"] * 2,
    ]  # fmt: skip


@pytest.mark.parametrize(("box", "plates"), [(Box(x=2, y=2, side=4), set()), (Box(x=5, y=0, side=3), {WHITE, BLACK})])
def test_only_what_the_model_does_not_draw_well_is_cut_out(painter, monkeypatch, box, plates):
    drawn = set()
    plate = painter.plate
    monkeypatch.setattr(painter, "plate", lambda background, language: drawn.add(background) or plate(None, language))
    scene = apply(None, Draw(wanted=(Wanted(name="dog"),))).with_thing(0, boxes=(box,))
    painter.paint(scene, language="en")
    assert drawn - {None} == plates
    assert (box in TAUGHT) == (not plates)


def test_a_cut_out_gives_back_what_was_laid_over_white_and_black(painter, monkeypatch):
    """A red disc, half covering at its rim, over plain white and plain black."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    cover = (12 - (x**2 + y**2).sqrt()).clamp(0, 1)[None, None]
    red = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1)
    over = {name: cover * red + (1 - cover) * level for name, level in ((WHITE, 1.0), (BLACK, 0.0))}
    empty = {name: torch.full((1, 3, 64, 64), level) for name, level in ((WHITE, 1.0), (BLACK, 0.0))}
    monkeypatch.setattr(painter, "plate", lambda background, language: ("plate", background))
    monkeypatch.setattr(painter, "_put", lambda plate, thing, box, free, background, language: ("drawn", background))
    monkeypatch.setattr(painter, "_decode", lambda what: (empty if what[0] == "plate" else over)[what[1]])
    ink, found = painter._cut_out(Thing(name="apple", boxes=(Box(x=2, y=2, side=4),)), "en")
    inside = cover[..., 16:48, 16:48]
    assert found[inside == 1].min() == 1
    assert found[inside == 0].max() == 0
    torch.testing.assert_close(ink[:, :, 14:18, 14:18], red.expand(1, 3, 4, 4))


def test_what_lay_under_something_that_goes_is_drawn_again_as_it_was(painter):
    lone = apply(None, Draw(wanted=(Wanted(name="cat"),), background="sea"))
    both = apply(lone, Add(wanted=Wanted(name="dog", place="top left")))
    assert both.things[1].boxes[0].overlap(both.things[0].boxes[0]) > 0
    first = painter.paint(lone, language="en")
    second = painter.paint(both, language="en", before=(lone, first))
    third = painter.paint(lone, language="en", before=(both, second))
    assert not torch.equal(second, first)
    torch.testing.assert_close(third, first)


def test_what_grows_leaves_the_rest_of_the_picture(painter):
    scene = apply(None, Draw(wanted=(Wanted(name="cat", place="left"),), background="sea"))
    grown = apply(scene, Resize(of=0, to="bigger"))
    before = painter.paint(scene, language="en")
    after = painter.paint(grown, language="en", before=(scene, before))
    outside = (painter._cells(grown.boxes) + painter._cells(scene.boxes)) == 0
    assert torch.equal(after[..., outside], before[..., outside])
    assert not torch.equal(after, before)
