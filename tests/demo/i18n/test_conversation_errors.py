"""What a conversation refuses is told in the language of whoever talks, wherever it is refused."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dianjing import Conversation
from dianjing.demo.i18n.translation import translate
from dianjing.pipelines.conversation import messages, storage
from dianjing.pipelines.conversation.edits import NewScene, ObjectSpec, ResizeObject, SetObjectCount, apply_edit
from dianjing.pipelines.conversation.messages import EDIT_ERROR_MESSAGES, EditError, LocalizedMessage

HAN = re.compile("[一-鿿]")
ENGLISH = re.compile("[A-Za-z]{2,}")
NAMES = {id(value): name for name, value in vars(messages).items() if isinstance(value, LocalizedMessage)}
CATS = NewScene(specs=(ObjectSpec(name="cat", count=2),))
# what is said in turn, the last of which is refused; or what refuses where no words of the rules lead there
TALKS = {
    "NOTHING_ASKED": ["画一只小猫", "小猫"],
    "NOTHING_KNOWN": ["一头麒麟"],
    "ABSENT": ["画一只小猫", "去掉小狗"],
    "NO_PICTURE": lambda: apply_edit(None, ResizeObject(target=0, direction="bigger")),
    "NO_PICTURE_BEFORE": ["撤销"],
    "NOTHING_DRAWN": lambda: Conversation("sticker").undo(),
    "WRONG_NUMBER": ["画四只小猫和一只小狗"],
    "TOO_MANY": ["画四只小猫", "再加一只小狗"],
    "TOO_MANY_KINDS": ["画一只小猫", "加一只小狗", "加一棵树", "加一个气球"],
    "NOTHING_LEFT": ["画一只小猫", "去掉小猫"],
    "TOO_MANY_BESIDE": lambda: apply_edit(apply_edit(None, CATS), SetObjectCount(target=0, count=9)),
    "NO_ROOM": ["画一只大大的小猫", "把它变大", "左边加一只小狗"],
    "NO_ROOM_TO_GROW": ["画四只小猫", *["把它变大"] * 9],
    "SMALLEST": ["画一只小猫", *["把它变小"] * 9],
}


@pytest.fixture
def talk(monkeypatch):
    """A conversation of the embedded model that draws nothing."""
    monkeypatch.setattr(Conversation, "_render", lambda *_, **__: (Image.new("RGB", (8, 8)), None))
    return Conversation("sticker")


def refused(talk, said):
    with pytest.raises(EditError) as caught:  # noqa: PT012 (any of what is said may be the one)
        if callable(said):
            said()
        else:
            for text in said:
                talk.say(text)
    return caught.value


def test_every_refusal_is_tried_here():
    assert set(TALKS) == {NAMES[id(refusal)] for refusal in EDIT_ERROR_MESSAGES}


@pytest.mark.parametrize("name", TALKS)
def test_a_chinese_talk_is_never_refused_in_english(name, talk):
    error = refused(talk, TALKS[name])
    assert NAMES[id(error.message)] == name
    by_words = not callable(TALKS[name])
    for language in ("zh", "en") if by_words else ("zh",):  # the browser's: what was said in Chinese counts more
        shown = translate(str(error), language)
        assert HAN.search(shown)
        assert not ENGLISH.search(shown), shown


@pytest.mark.parametrize("refusal", EDIT_ERROR_MESSAGES, ids=lambda refusal: NAMES[id(refusal)])
def test_an_english_refusal_is_told_to_a_chinese_reader_in_chinese(refusal):
    values = dict.fromkeys(re.findall(r"\{(\w+)\}", refusal.en), "7")
    assert set(re.findall(r"\{(\w+)\}", refusal.zh)) == set(values)
    assert translate(refusal.say("en", **values), "zh") == refusal.say("zh", **values)
    assert not HAN.search(refusal.en)


def test_nothing_else_is_refused_in_words_of_its_own():
    """Each `NotPossibleError` of the conversation is made of one of the sentences."""
    for file in Path(messages.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in (c for c in made if isinstance(c.func, ast.Name) and c.func.id == "NotPossibleError"):
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
def test_a_file_that_is_no_talk_is_refused_in_chinese(tmp_path, content):
    path = tmp_path / "talk.json"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    model = SimpleNamespace(names=None)
    with pytest.raises(ValueError, match="holds no conversation") as caught:
        storage.read_conversation_file(path, model=model)
    shown = translate(str(caught.value).replace(str(path), path.name), "zh")
    known = {"talk", "json", "format", "turns", "seed", "dianjing", "conversation", "png", "list", "int"}
    assert set(ENGLISH.findall(shown)) <= known, shown
