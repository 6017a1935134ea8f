"""A saved conversation can be continued exactly; any other file is refused with the reason."""

import json

import pytest
import torch

from dianjing import Conversation
from dianjing.pipelines.conversation.storage import read_conversation_file


@pytest.fixture(scope="module")
def original(loaded):
    """A conversation of two turns, which tests fork and leave as it is."""
    conversation = Conversation(loaded, seed=3, num_inference_steps=2)
    conversation.send("a cat on the left on the grass")
    conversation.send("再加一只小狗")
    return conversation


@pytest.fixture
def saved(original, tmp_path):
    original.save(tmp_path / "talk.json")
    return tmp_path / "talk.json"


def test_a_loaded_conversation_continues_like_the_saved_one(original, saved, loaded):
    conversation = original.fork()
    other = Conversation.load(saved, loaded)
    assert [turn.text for turn in other.turns] == [turn.text for turn in conversation.turns]
    assert [turn.scene for turn in other.turns] == [turn.scene for turn in conversation.turns]
    assert other.turns[1].image.tobytes() == conversation.turns[1].image.tobytes()
    first, second = conversation.send("make it smaller"), other.send("make it smaller")
    assert torch.equal(first.latents, second.latents)
    assert first.image.tobytes() == second.image.tobytes()


def test_a_file_is_read_without_a_conversation(original, saved):
    state = read_conversation_file(saved)
    assert state.seed == original.seed
    assert [turn.prompt for turn in state.turns] == [turn.prompt for turn in original.turns]


def test_loading_needs_no_weights(saved):
    def fail(model):
        raise AssertionError("weights were loaded")

    conversation = Conversation.load(saved, load_pipeline=fail)
    assert conversation.send("undo").prompt == "a cat on the left on the grass"


def test_a_save_that_fails_leaves_the_old_file(original, saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        original.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_path_without_json_suffix_is_refused(conversation, tmp_path):
    with pytest.raises(ValueError, match=r"does not end in \.json"):
        conversation.save(tmp_path / "talk.png")


def changed(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


HOSTILE = [
    (lambda c: c.update(format="something else"), "format"),
    (lambda c: c.update(seed="7"), "seed is '7'"),
    (lambda c: c.update(seed=-1), "seed is -1"),
    (lambda c: c.update(turns={}), "turns should be a list"),
    (lambda c: c.update(turns=[7]), "turn is of type int"),
    (lambda c: c.update(turns=c["turns"] * 501), "at most 1,000"),
    (lambda c: c.pop("num_inference_steps"), "num_inference_steps"),
    (lambda c: c["turns"][0].pop("scene"), "scene"),
    (lambda c: c["turns"][0].update(scene=[]), "scene is of type list"),
    (lambda c: c["turns"][0]["scene"].update(antecedent=9), "antecedent is 9"),
    (lambda c: c["turns"][0]["scene"]["objects"][0]["boxes"][0].update(side=99), "the side of a box is 99"),
    (lambda c: c["turns"][0]["scene"]["objects"][0].update(boxes=[]), "the number of boxes"),
    (lambda c: c["turns"][0]["scene"]["objects"][0].update(name="a\x00"), "control character"),
    (lambda c: c["turns"][0].update(text=""), "text is empty"),
    (lambda c: c["turns"][0].update(text="a\udcff"), "surrogate"),
    (lambda c: c["turns"][0].update(changes=["a"] * 99), "changes should be a list"),
    (lambda c: c["turns"][0].update(png="no base64!"), "base64"),
    (lambda c: c["turns"][0].update(png="AAAA"), "image of a turn cannot be read"),
    (lambda c: c["turns"][0]["latents"].update(shape=[1, 4, 8, 9]), "bytes"),
    (lambda c: c["turns"][0]["latents"].update(shape=[10**9] * 4), "four whole numbers"),
    (lambda c: c["turns"][0]["latents"].update(float32="AAAAAA=="), "have 4 bytes"),
    (lambda c: c["turns"][0].update(latents=None), "latents is of type NoneType"),
]


@pytest.mark.parametrize(("change", "reason"), HOSTILE)
def test_a_hostile_file_is_refused_with_the_reason(saved, change, reason):
    changed(saved, change)
    with pytest.raises(ValueError, match=reason):
        Conversation.load(saved)


def test_latents_that_are_not_finite_are_refused(conversation, tmp_path):
    conversation.send("a cat")
    conversation.turns[0].latents[0, 0, 0, 0] = float("nan")
    conversation.save(tmp_path / "talk.json")
    with pytest.raises(ValueError, match="not finite"):
        Conversation.load(tmp_path / "talk.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'])
def test_a_file_without_conversation_is_refused(tmp_path, content):
    path = tmp_path / "talk.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no conversation"):
        Conversation.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json cannot be read \(No such file"):
        Conversation.load(tmp_path / "none.json")
