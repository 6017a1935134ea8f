"""Golden case of a conversation: turns of every kind, their pictures, and the saved file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dianjing import Conversation
from tests.golden.pictures import loaded
from tests.golden.results import Results, array, contents, pixels, text

TEXTS = (
    "a cat on the left on the grass",
    "add a dog on the right",
    "replace the cat with a fox",
    "move the fox to the top",
    "make it smaller and paint it blue",
    "背景换成沙滩",
    "undo",
    "再画一次",
    "remove the dog",
)
LONG = 500  # characters: pictures and latents, which are compared as numbers


def conversation(folder: Path) -> Results:
    """Each turn as said, understood and drawn; then the same of the file, loaded again and gone on with."""
    talk = Conversation(loaded(), seed=3, num_inference_steps=3, guidance_scale=4.0)
    turns = [talk.send(said) for said in TEXTS]
    told = [[turn.text, turn.prompt, turn.changes, turn.hints, turn.seed, contents(turn.scene)] for turn in turns]
    results: Results = {
        "turns": text(told),
        "latents": np.concatenate([array(turn.latents) for turn in turns]),
        "pixels": pixels([turn.image for turn in turns[:2]]),
    }
    path = folder / "talk.json"
    talk.save(path)
    _, *content = _short(json.loads(path.read_text(encoding="utf-8")))  # the first one names the format
    results["saved file"] = text(content)
    again = Conversation.load(path, loaded())
    results["loaded latents"] = np.concatenate([array(turn.latents) for turn in again.turns])
    results["gone on"] = array(again.send("再加一个红色的气球").latents)
    return results


def _short(value: Any) -> Any:
    """`contents`, without what is stored in base64."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, dict):
        return [_short(each) for each in value.values()]
    return "" if isinstance(value, str) and len(value) > LONG else value
