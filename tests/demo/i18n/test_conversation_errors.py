"""Errors of a conversation are in the language of the user, wherever they are raised."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dianjing import Conversation
from dianjing.demo.i18n.translation import render_for_page
from dianjing.pipelines.conversation import messages, storage
from dianjing.pipelines.conversation.edits import NewScene, ObjectSpec, ResizeObject, SetObjectCount, apply_edit
from dianjing.pipelines.conversation.messages import EDIT_ERROR_MESSAGES, EditError, LocalizedMessage

HAN = re.compile("[一-鿿]")
ENGLISH = re.compile("[A-Za-z]{2,}")
NAMES = {id(value): name for name, value in vars(messages).items() if isinstance(value, LocalizedMessage)}
CATS = NewScene(specs=(ObjectSpec(name="cat", count=2),))
# instructions of which the last is refused; or a call, if no instruction leads to the error
INSTRUCTIONS = {
    "NO_INSTRUCTION": ["画一只小猫", "小猫"],
    "ONLY_UNKNOWN_WORDS": ["一头麒麟"],
    "OBJECT_NOT_FOUND": ["画一只小猫", "去掉小狗"],
    "NO_IMAGE": lambda: apply_edit(None, ResizeObject(target=0, direction="bigger")),
    "NO_PREVIOUS_IMAGE": ["撤销"],
    "NOTHING_TO_UNDO": lambda: Conversation("sticker").undo(),
    "INVALID_OBJECT_COUNT": ["画四只小猫和一只小狗"],
    "TOO_MANY_INSTANCES": ["画四只小猫", "再加一只小狗"],
    "TOO_MANY_OBJECTS": ["画一只小猫", "加一只小狗", "加一棵树", "加一个气球"],
    "EMPTY_SCENE": ["画一只小猫", "去掉小猫"],
    "COUNT_DOES_NOT_FIT": lambda: apply_edit(apply_edit(None, CATS), SetObjectCount(target=0, count=9)),
    "NO_FREE_BOX": ["画一只大大的小猫", "把它变大", "左边加一只小狗"],
    "CANNOT_ENLARGE": ["画四只小猫", *["把它变大"] * 9],
    "CANNOT_SHRINK": ["画一只小猫", *["把它变小"] * 9],
}


@pytest.fixture
def conversation(monkeypatch):
    """A conversation of the bundled model without rendering."""
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


def test_every_error_is_tested_here():
    assert set(INSTRUCTIONS) == {NAMES[id(refusal)] for refusal in EDIT_ERROR_MESSAGES}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_chinese_conversation_has_chinese_errors(name, conversation):
    error = get_error(conversation, INSTRUCTIONS[name])
    assert NAMES[id(error.message)] == name
    is_text = not callable(INSTRUCTIONS[name])
    for language in ("zh", "en") if is_text else ("zh",):  # the browser's language; that of the text counts more
        text = render_for_page(error, language)
        assert HAN.search(text)
        assert not ENGLISH.search(text), text


@pytest.mark.parametrize("refusal", EDIT_ERROR_MESSAGES, ids=lambda refusal: NAMES[id(refusal)])
def test_an_english_error_is_translated_for_a_chinese_reader(refusal):
    values = dict.fromkeys(re.findall(r"\{(\w+)\}", refusal.en), "7")
    assert set(re.findall(r"\{(\w+)\}", refusal.zh)) == set(values)
    assert render_for_page(ValueError(refusal.render("en", **values)), "zh") == refusal.render("zh", **values)
    assert not HAN.search(refusal.en)


def test_every_error_is_made_from_a_message():
    """Each `EditError` of the conversation is made of one of the sentences."""
    for file in Path(messages.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in (c for c in made if isinstance(c.func, ast.Name) and c.func.id == "EditError"):
            assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), f"{file.name}:{call.lineno}"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": "dianjing conversation 1"}',
        '{"format": "dianjing conversation 1", "turns": 3}',
        '{"format": "dianjing conversation 1", "turns": [], "seed": -1, "num_inference_steps": 1, "guidance_scale": 1}',
        '{"format": "dianjing conversation 1", "turns": [3], "seed": 1, "num_inference_steps": 1, "guidance_scale": 1}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_a_file_without_a_conversation_is_refused_in_chinese(tmp_path, content):
    path = tmp_path / "saved.json"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    model = SimpleNamespace(concept_vocabulary=None)
    with pytest.raises(ValueError, match="holds no conversation") as caught:
        storage.read_conversation_file(path, model=model)
    text = render_for_page(ValueError(str(caught.value).replace(str(path), path.name)), "zh")
    known = {"saved", "json", "format", "turns", "seed", "dianjing", "conversation", "png", "list", "int"}
    assert set(ENGLISH.findall(text)) <= known, text
