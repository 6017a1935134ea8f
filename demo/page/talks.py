"""The talks of a visit: begun, told as messages, saved and opened as files."""

import secrets
from pathlib import Path

from PIL import Image

from dianjing import __version__
from dianjing.demo.page.shared import Shared
from dianjing.demo.page.shelf import Visit
from dianjing.demo.page.uploads import read_upload
from dianjing.demo.requests import TalkRequest
from dianjing.pipelines.conversation.talk import Conversation, Turn
from dianjing.pipelines.media import Record


def start(shared: Shared, visit: Visit) -> Conversation:
    """The talk that is chosen; the first begins here."""
    if visit.current_talk is None:
        visit.add_talk(shared.studio.conversation(seed=secrets.randbelow(2**32)))
    talk = visit.current_talk
    assert talk is not None
    return talk


def messages(talk: Conversation) -> list[dict[str, str]]:
    """As `gr.Chatbot` takes them: what was said, and how it was understood."""
    told = []
    for turn in talk.turns:
        told.append({"role": "user", "content": turn.text})
        told.append({"role": "assistant", "content": answer(turn)})
    return told


def answer(turn: Turn) -> str:
    """What changed, the picture in words, and what was passed over; one line each."""
    return "\n".join([*turn.changes, f"→ {turn.prompt}", *turn.hints])


def picture_of(shared: Shared, visit: Visit, turn: Turn) -> Path:
    """The file of a turn's picture; one from an opened talk is written now."""
    made = next((each for each in visit.talked if each.turn is turn), None)
    if made is None:
        size: dict[str, object] = {"width": turn.image.width, "height": turn.image.height}
        record = Record(
            prompt=turn.prompt, seed=turn.seed, settings=size, model=shared.abilities.model, version=__version__
        )
        made = shared.keep_picture(visit, visit.talked, turn.image, record, turn=turn)
    return made.files[0]


def keep_preview(shared: Shared, visit: Visit, request: TalkRequest, preview: Image.Image) -> Path:
    """The file of what a turn that was stopped had come to."""
    turns = request.conversation.turns
    seed = turns[-1].seed if turns else request.conversation.seed
    settings: dict[str, object] = {"width": preview.width, "height": preview.height, "unfinished": True}
    record = Record(
        prompt=request.text, seed=seed, settings=settings, model=shared.abilities.model, version=__version__
    )
    kept = shared.keep_picture(visit, visit.talked, preview, record, visible_label=request.visible_label)
    return kept.files[0]


def save_talk(talk: Conversation, visit: Visit) -> str:
    """The talk as a JSON file, for a download."""
    path = visit.folder / f"dianjing-talk-{visit.talk + 1}.json"
    talk.save(path)
    return str(path)


def load_talk(path: str | None, shared: Shared) -> Conversation:
    """An uploaded talk.

    Raises: ValueError for a file that holds none; the message names the file as its owner does.
    """
    read_upload(path, shared.limits)
    assert path is not None
    try:
        return Conversation.load(path, shared.studio.talks)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), Path(path).name)) from None
