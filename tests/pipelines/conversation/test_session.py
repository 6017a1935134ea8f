"""A conversation keeps what is not mentioned, can undo and fork, and does not change by an error."""

import numpy as np
import pytest
import torch

from dianjing import Conversation
from dianjing.pipelines.conversation.edits import AddObject, ObjectSpec
from dianjing.pipelines.conversation.errors import EditError
from dianjing.pipelines.conversation.parsing.base import ParsedInstruction


def cells(boxes):
    """True where a box is, of 8 x 8 latents."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    for box in boxes:
        mask[box.y : box.y + box.side, box.x : box.x + box.side] = True
    return mask


def test_a_turn_reports_its_edits_and_its_image(conversation):
    turn = conversation.send("a cat on the grass")
    assert turn.prompt == "a cat on the grass"
    assert turn.changes == ("generated a new image",)
    assert turn.hints == ()
    assert turn.image.size == (64, 64)
    assert conversation.send("加一只小狗").changes == ("加了一只小狗",)
    assert conversation.turns[-1].prompt.startswith("草地上")


def test_latents_outside_the_box_of_a_new_object_stay(conversation):
    before = conversation.send("a cat on the left on the grass")
    after = conversation.send("add a dog on the right")
    new = cells(after.scene.objects[1].boxes)
    assert torch.equal(after.latents[..., ~new], before.latents[..., ~new])
    assert not torch.equal(after.latents[..., new], before.latents[..., new])


def test_the_box_of_a_removed_object_is_filled_from_the_background(conversation):
    alone = conversation.send("a cat on the left on the grass")
    both = conversation.send("add a dog on the right")
    again = conversation.send("remove the dog")
    assert torch.equal(again.latents, alone.latents)
    assert not torch.equal(again.latents, both.latents)


def test_another_background_leaves_the_boxes(conversation):
    before = conversation.send("a cat to the left of a dog on the grass")
    after = conversation.send("on the beach")
    assert after.scene.objects == before.scene.objects
    assert not torch.equal(after.latents, before.latents)


def test_equal_texts_and_seeds_give_equal_images(loaded):
    images = []
    for seed in (1, 1, 2):
        conversation = Conversation(loaded, seed=seed, num_inference_steps=2)
        conversation.send("a cat")
        images.append(np.asarray(conversation.send("make it bigger").image))
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


def test_undo_returns_the_previous_image(conversation):
    first = conversation.send("a cat")
    conversation.send("make it smaller")
    back = conversation.send("undo")
    assert back.image is first.image
    assert back.changes == ("undid the last change",)
    assert len(conversation.turns) == 1
    with pytest.raises(EditError) as caught:
        conversation.send("撤销")
    assert caught.value.message_id == "no_previous_image"
    assert conversation.undo() is None
    assert conversation.turns == ()
    with pytest.raises(ValueError, match="nothing has been generated"):
        conversation.undo()


def test_a_fork_is_independent(conversation):
    conversation.send("a cat")
    other = conversation.fork()
    other.send("add a dog")
    conversation.send("on the sea")
    assert [each.name for each in other.turns[-1].scene.objects] == ["cat", "dog"]
    assert [each.name for each in conversation.turns[-1].scene.objects] == ["cat"]
    assert other.turns[0] is conversation.turns[0]


def test_a_regenerated_scene_has_the_next_seed(conversation):
    before = conversation.send("a cat on the grass")
    after = conversation.send("try again")
    assert after.scene == before.scene
    assert after.seed == before.seed + 1
    assert not torch.equal(after.latents, before.latents)


BAD = ["", "   ", "猫" * 1_000_000, "a cat\x00", "a cat\udcff", 7, None, "zyzzyva", "undo"]


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text)[:20])
def test_bad_instructions_are_refused_before_weights_load(text):
    def fail(model):
        raise AssertionError("weights were loaded")

    conversation = Conversation("sticker", load_pipeline=fail)
    with pytest.raises(ValueError, match=r"\w{3}"):
        conversation.send(text)
    assert conversation.turns == ()


@pytest.mark.parametrize("text", [*BAD[:5], "zyzzyva", "remove the cat", "remove the fox", "add four dogs"])
def test_a_refused_instruction_leaves_the_conversation(conversation, text):
    conversation.send("a cat")
    before = conversation.turns
    with pytest.raises(ValueError, match=r"\w{3}"):
        conversation.send(text)
    assert conversation.turns is before


def test_a_failure_while_rendering_leaves_the_conversation(conversation, monkeypatch):
    conversation.send("a cat")
    before = conversation.turns

    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(conversation, "_render", fail)
    with pytest.raises(RuntimeError):
        conversation.send("make it bigger")
    assert conversation.turns is before


def test_any_parser_can_be_used(loaded):
    class FixedParser:
        def parse(self, text, scene):
            return ParsedInstruction(edits=(AddObject(spec=ObjectSpec(name="dog")),), hints=("as always",))

    conversation = Conversation(loaded, num_inference_steps=2)
    conversation.send("a cat")
    conversation.parser = FixedParser()
    turn = conversation.send("anything")
    assert [each.name for each in turn.scene.objects] == ["cat", "dog"]
    assert turn.hints == ("as always",)


@pytest.mark.parametrize(("setting", "value"), [("seed", -1), ("num_inference_steps", 0), ("guidance_scale", -2)])
def test_bad_settings_are_refused_when_made(setting, value):
    with pytest.raises(ValueError, match=setting):
        Conversation("sticker", **{setting: value})
