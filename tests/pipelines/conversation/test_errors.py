"""Every error of a conversation is reached by an instruction or a call, and is rendered in both languages."""

import re
import sys

import pytest
from PIL import Image

from dianjing import Conversation
from dianjing.pipelines.conversation.edits import NewScene, ObjectSpec, ResizeObject, SetObjectCount, apply_edit
from dianjing.pipelines.conversation.errors import EditError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from dianjing.errors import MESSAGES_FOLDER

HAN = re.compile("[一-鿿]")
ENGLISH = re.compile("[A-Za-z]{2,}")
CATS = NewScene(specs=(ObjectSpec(name="cat", count=2),))
# instructions of which the last is refused; or a call, if no instruction leads to the error
INSTRUCTIONS = {
    "no_instruction": ["画一只小猫", "小猫"],
    "only_unknown_words": ["一头麒麟"],
    "object_not_found": ["画一只小猫", "去掉小狗"],
    "no_image_yet": lambda: apply_edit(None, ResizeObject(target=0, direction="bigger")),
    "no_previous_image": ["撤销"],
    "nothing_to_undo": lambda: Conversation("sticker").undo(),
    "invalid_object_count": ["画四只小猫和一只小狗"],
    "too_many_instances": ["画四只小猫", "再加一只小狗"],
    "too_many_objects": ["画一只小猫", "加一只小狗", "加一棵树", "加一个气球"],
    "empty_scene": ["画一只小猫", "去掉小猫"],
    "count_does_not_fit": lambda: apply_edit(apply_edit(None, CATS), SetObjectCount(target=0, count=9)),
    "no_free_box": ["画一只大大的小猫", "把它变大", "左边加一只小狗"],
    "cannot_enlarge": ["画四只小猫", *["把它变大"] * 9],
    "cannot_shrink": ["画一只小猫", *["把它变小"] * 9],
}


@pytest.fixture
def conversation(monkeypatch):
    """A conversation with the bundled model's vocabulary, without rendering."""
    monkeypatch.setattr(Conversation, "_render", lambda *_, **__: (Image.new("RGB", (8, 8)), None))
    return Conversation("sticker")


def get_error(conversation, instructions):
    with pytest.raises(EditError) as caught:  # noqa: PT012 (any of the texts may be refused)
        if callable(instructions):
            instructions()
        else:
            for text in instructions:
                conversation.send(text)
    return caught.value


def test_every_error_of_an_instruction_is_tested_here():
    text = (MESSAGES_FOLDER / "conversation.toml").read_text(encoding="utf-8")
    assert set(INSTRUCTIONS) == set(tomllib.loads(text.partition("# ---- hints")[0]))


@pytest.mark.parametrize("message_id", INSTRUCTIONS)
def test_an_error_is_rendered_in_either_language(message_id, conversation):
    error = get_error(conversation, INSTRUCTIONS[message_id])
    assert error.message_id == message_id
    assert HAN.search(error.render("zh"))
    assert not ENGLISH.search(error.render("zh"))
    if message_id != "only_unknown_words":  # which quotes the text
        assert not HAN.search(error.render("en"))


def test_an_absent_object_is_named_in_the_language_of_the_reader(conversation):
    conversation.send("画一只小猫")
    error = get_error(conversation, ["remove the dog"])
    assert "没有小狗" in error.render("zh")
    assert "no dog" in str(error)
