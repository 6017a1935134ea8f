"""The talks of a visit: begun, told as messages, saved and opened as files."""

import secrets
from pathlib import Path

from PIL import Image

from dianjing import __version__
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.metadata_import import read_upload
from dianjing.demo.page.sessions import Session
from dianjing.demo.requests import ConversationRequest
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.conversation.turn import Turn
from dianjing.pipelines.media.metadata import GenerationMetadata


def get_or_create_conversation(context: PageContext, session: Session) -> Conversation:
    """The talk that is chosen; the first begins here."""
    if session.current_conversation is None:
        session.add_conversation(context.engine.create_conversation(seed=secrets.randbelow(2**32)))
    talk = session.current_conversation
    assert talk is not None
    return talk


def to_chatbot_messages(conversation: Conversation) -> list[dict[str, str]]:
    """As `gr.Chatbot` takes them: what was said, and how it was understood."""
    told = []
    for turn in conversation.turns:
        told.append({"role": "user", "content": turn.text})
        told.append({"role": "assistant", "content": format_turn(turn)})
    return told


def format_turn(turn: Turn) -> str:
    """What changed, the picture in words, and what was passed over; one line each."""
    return "\n".join([*turn.changes, f"→ {turn.prompt}", *turn.hints])


def get_turn_image(context: PageContext, session: Session, turn: Turn) -> Path:
    """The file of a turn's picture; one from an opened talk is written now."""
    made = next((each for each in session.chat_images if each.turn is turn), None)
    if made is None:
        size: dict[str, object] = {"width": turn.image.width, "height": turn.image.height}
        record = GenerationMetadata(
            prompt=turn.prompt, seed=turn.seed, settings=size, model=context.capabilities.model, version=__version__
        )
        made = context.save_session_image(session, session.chat_images, turn.image, record, turn=turn)
    return made.files[0]


def save_cancelled_preview(
    context: PageContext, session: Session, request: ConversationRequest, preview: Image.Image
) -> Path:
    """The file of what a turn that was stopped had come to."""
    turns = request.conversation.turns
    seed = turns[-1].seed if turns else request.conversation.seed
    settings: dict[str, object] = {"width": preview.width, "height": preview.height, "unfinished": True}
    record = GenerationMetadata(
        prompt=request.text, seed=seed, settings=settings, model=context.capabilities.model, version=__version__
    )
    kept = context.save_session_image(
        session, session.chat_images, preview, record, visible_label=request.visible_label
    )
    return kept.files[0]


def export_conversation(conversation: Conversation, session: Session) -> str:
    """The talk as a JSON file, for a download."""
    path = session.folder / f"dianjing-talk-{session.conversation_index + 1}.json"
    conversation.save(path)
    return str(path)


def load_uploaded_conversation(path: str | None, context: PageContext) -> Conversation:
    """An uploaded talk.

    Raises: ValueError for a file that holds none; the message names the file as its owner does.
    """
    read_upload(path, context.limits)
    assert path is not None
    try:
        return Conversation.load(path, context.engine.conversation_pipeline)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), Path(path).name)) from None
