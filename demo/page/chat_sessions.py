"""Conversations of a session: created, shown as messages, exported and loaded as files."""

import secrets
from pathlib import Path

from PIL import Image

from dianjing.demo.page.context import PageContext
from dianjing.demo.page.sessions import Session
from dianjing.demo.requests import ConversationRequest
from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.conversation.turn import Turn


def add_new_conversation(context: PageContext, session: Session) -> None:
    """Add a conversation with a random seed and select it."""
    session.add_conversation(context.engine.create_conversation(seed=secrets.randbelow(2**32)))


def get_or_create_conversation(context: PageContext, session: Session) -> Conversation:
    """The selected conversation; the first one is created here."""
    if session.current_conversation is None:
        add_new_conversation(context, session)
    conversation = session.current_conversation
    assert conversation is not None
    return conversation


def to_chatbot_messages(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation as messages of `gr.Chatbot`."""
    messages = []
    for turn in conversation.turns:
        messages.append({"role": "user", "content": turn.text})
        messages.append({"role": "assistant", "content": format_turn(turn)})
    return messages


def format_turn(turn: Turn) -> str:
    """The changes of a turn, the prompt of its image and its hints, one line each."""
    return "\n".join([*turn.changes, f"→ {turn.prompt}", *turn.hints])


def get_last_image(context: PageContext, session: Session, conversation: Conversation) -> Path:
    """The file of the last image of a conversation; it is written now for a loaded conversation."""
    turn = conversation.turns[-1]
    item = next((item for item in session.chat_images if item.turn is turn), None)
    if item is None:
        metadata = context.engine.make_conversation_metadata(conversation)
        item = context.save_session_image(session, session.chat_images, turn.image, metadata, turn=turn)
    return item.files[0]


def save_cancelled_preview(
    context: PageContext, session: Session, request: ConversationRequest, preview: Image.Image
) -> Path:
    """Write the last preview of a turn that was stopped, and add it to the history."""
    turns = request.conversation.turns
    seed = turns[-1].seed if turns else request.conversation.seed
    settings: dict[str, object] = {"width": preview.width, "height": preview.height, "unfinished": True}
    metadata = context.engine.make_metadata(request.text, seed=seed, settings=settings)
    item = context.save_session_image(
        session, session.chat_images, preview, metadata, visible_label=request.visible_label
    )
    return item.files[0]


def export_conversation(conversation: Conversation, session: Session) -> str:
    """Write the conversation to a JSON file in the session's folder, and return its path."""
    path = session.folder / f"dianjing-conversation-{session.conversation_index + 1}.json"
    conversation.save(path)
    return str(path)


def load_uploaded_conversation(path: str | None, context: PageContext) -> Conversation:
    """Load a conversation from an uploaded file.

    Raises: DianjingError for a file without a conversation; the message has the file's name without its folder.
    """
    with context.uploads.open_path(path) as file:
        return load_conversation(file, context)


def load_conversation(path: Path, context: PageContext) -> Conversation:
    """Load a conversation file.

    Raises: DianjingError for a file without a conversation; the message has the file's name without its folder.
    """
    try:
        return Conversation.load(path, context.engine.text_to_image)
    except DianjingError as error:
        arguments = {key: path.name if str(value) == str(path) else value for key, value in error.arguments.items()}
        raise DianjingError(error.message_id, **arguments) from None
