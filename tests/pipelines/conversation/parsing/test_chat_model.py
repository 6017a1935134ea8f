"""A chat model as rewriter: strict JSON, one more try, then the rule_parser, and it says so."""

import json

import pytest

from dianjing.pipelines.conversation.edits import (
    AddObject,
    MoveObject,
    NewScene,
    ObjectSpec,
    RecolourObject,
    Regenerate,
    RemoveObject,
    ReplaceObject,
    ResizeObject,
    SetBackground,
    SetObjectCount,
    Undo,
    apply_edit,
)
from dianjing.pipelines.conversation.parsing.chat_model import ChatModelParser, load_chat_model, parse_answer

CAT_AND_DOG = apply_edit(None, NewScene(specs=(ObjectSpec(name="cat"), ObjectSpec(name="dog")), relation="left"))
GOOD = json.dumps({"edits": [{"edit": "resize", "target": "cat", "direction": "bigger"}]})


class Answers:
    """A fake chat model: returns the answers in order and records the messages."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    def __call__(self, messages):
        self.requests.append([dict(message) for message in messages])
        return self.answers.pop(0)


def test_a_valid_answer_becomes_edits(rule_parser):
    answers = Answers(GOOD)
    instruction = ChatModelParser(answers, rule_parser).parse("the feline is hard to see", CAT_AND_DOG)
    assert instruction.edits == (ResizeObject(target=0, direction="bigger"),)
    assert instruction.hints == ()
    (messages,) = answers.requests
    assert [message["role"] for message in messages] == ["system", "user"]
    assert "the feline is hard to see" in messages[1]["content"]
    assert '"cat"' in messages[1]["content"]


@pytest.mark.parametrize("bad", ["Sure! Here you are.", "[]", '{"edits": []}', '{"edits": [{"edit": "fly"}]}'])
def test_an_invalid_answer_is_returned_once_with_the_reason(rule_parser, bad):
    answers = Answers(bad, GOOD)
    instruction = ChatModelParser(answers, rule_parser).parse("make the cat bigger", CAT_AND_DOG)
    assert instruction.edits == (ResizeObject(target=0, direction="bigger"),)
    assert instruction.hints == ()
    assert answers.requests[1][2] == {"role": "assistant", "content": bad}
    assert "cannot be used" in answers.requests[1][3]["content"]


def test_after_two_invalid_answers_the_rules_parse_with_a_hint(rule_parser):
    answers = Answers("no", "no again")
    instruction = ChatModelParser(answers, rule_parser).parse("make the dog smaller", CAT_AND_DOG)
    assert instruction.edits == (ResizeObject(target=1, direction="smaller"),)
    assert any("built-in rules" in hint and "no again" in hint for hint in instruction.hints)
    assert answers.answers == []


def test_an_answer_about_an_absent_object_is_invalid(rule_parser):
    answers = Answers(GOOD.replace("cat", "fox"), GOOD)
    ChatModelParser(answers, rule_parser).parse("bigger", CAT_AND_DOG)
    assert "'fox'" in answers.requests[1][3]["content"]


EDITS = [
    (
        {"edit": "new_scene", "objects": [{"name": "kitten", "count": 2, "colour": None}], "background": "beach"},
        NewScene(specs=(ObjectSpec(name="cat", count=2),), background="beach"),
    ),
    ({"edit": "background", "background": "a palace"}, SetBackground(background="a palace")),
    (
        {"edit": "add", "object": {"name": "gryphon", "position": "top left"}},
        AddObject(spec=ObjectSpec(name="gryphon", position="top left")),
    ),
    (
        {"edit": "add", "object": {"name": "star"}, "relation": "above", "anchor": "dog"},
        AddObject(spec=ObjectSpec(name="star"), relation="above", anchor=1),
    ),
    ({"edit": "remove", "target": "dog"}, RemoveObject(target=1)),
    (
        {"edit": "replace", "target": "dog", "object": {"name": "fox"}},
        ReplaceObject(target=1, spec=ObjectSpec(name="fox")),
    ),
    ({"edit": "move", "target": "cat", "position": "top"}, MoveObject(target=0, position="top")),
    (
        {"edit": "move", "target": "cat", "relation": "right", "anchor": "dog"},
        MoveObject(target=0, relation="right", anchor=1),
    ),
    ({"edit": "count", "target": "cat", "count": 2}, SetObjectCount(target=0, count=2)),
    ({"edit": "colour", "target": "cat", "colour": "red"}, RecolourObject(target=0, colour="red")),
    ({"edit": "regenerate"}, Regenerate()),
    ({"edit": "undo"}, Undo()),
]


@pytest.mark.parametrize(("fields", "edit"), EDITS)
def test_every_kind_of_edit_is_parsed(rule_parser, fields, edit):
    assert parse_answer(json.dumps({"edits": [fields]}), CAT_AND_DOG, rule_parser) == (edit,)


WRONG = [
    {"edit": "remove"},
    {"edit": "remove", "target": 7},
    {"edit": "count", "target": "cat", "count": "many"},
    {"edit": "count", "target": "cat", "count": True},
    {"edit": "move", "target": "cat", "position": "nowhere"},
    {"edit": "move", "target": "cat"},
    {"edit": "resize", "target": "cat"},
    {"edit": "add", "object": "dog"},
    {"edit": "add", "object": {"name": "dog", "size": "medium"}},
    {"edit": "new_scene", "objects": "cat"},
    {"edit": "new_scene", "objects": []},
    {"edit": "background", "background": None},
    {"edit": ["undo"]},
    "undo",
]


@pytest.mark.parametrize("fields", WRONG, ids=json.dumps)
def test_a_wrong_edit_is_an_error_that_says_why(rule_parser, fields):
    with pytest.raises(ValueError, match=r"\w{4}"):
        parse_answer(json.dumps({"edits": [fields]}), CAT_AND_DOG, rule_parser)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    """A causal language model with random weights and a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {chr(code): index for index, code in enumerate(range(32, 127))} | {"<end>": 95, "<unk>": 96}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")
    fast.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=95
    )
    folder = tmp_path_factory.mktemp("chat")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_any_model_with_a_chat_template_can_answer(chat_folder, rule_parser, monkeypatch):
    monkeypatch.setattr("dianjing.pipelines.conversation.parsing.chat_model.MAX_NEW_TOKENS", 8)
    complete = load_chat_model(chat_folder, device="cpu")
    messages = [{"role": "user", "content": "a cat"}]
    answer = complete(messages)
    assert 0 < len(answer) <= 8 * len("<unk>")
    assert "user:" not in answer  # only what is new
    assert complete(messages) == answer
    instruction = ChatModelParser.from_pretrained(chat_folder, rule_parser=rule_parser).parse("a cat", None)
    assert instruction.edits == (NewScene(specs=(ObjectSpec(name="cat"),)),)
    assert "built-in rules" in instruction.hints[-1]


def test_a_model_without_a_chat_template_is_refused(chat_folder, rule_parser, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        ChatModelParser.from_pretrained(tmp_path, rule_parser=rule_parser)


def test_a_folder_without_a_model_is_refused(rule_parser, tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded as a chat model"):
        ChatModelParser.from_pretrained(tmp_path / "none", rule_parser=rule_parser)
