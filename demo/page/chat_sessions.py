"""Conversations of a session: created, shown as messages, exported and loaded as files."""

import html
import secrets
from pathlib import Path
from typing import Literal

from PIL import Image

from dianjing.demo.errors import to_user_error
from dianjing.demo.i18n.translation import render_for_page
from dianjing.demo.page.context import PageContext
from dianjing.demo.page.sessions import FailedMessage, HistoryItem, Session
from dianjing.demo.requests import ConversationRequest
from dianjing.demo.uploads import check_conversation_size
from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.parsing.base import detect_language
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


def make_message(role: Literal["user", "assistant"], text: str) -> dict[str, str]:
    """A message of `gr.Chatbot`, which shows HTML as such even without Markdown; the text may be anybody's."""
    return {"role": role, "content": html.escape(text, quote=False)}


def to_chatbot_messages(conversation: Conversation, session: Session) -> list[dict[str, str]]:
    """A conversation as messages of `gr.Chatbot`, with those that failed in their places."""
    messages = []
    for number, turn in enumerate(conversation.turns):
        messages += _get_failures(conversation, session, num_turns=number)
        messages += [make_message("user", turn.text), make_message("assistant", format_turn(turn))]
    return messages + _get_failures(conversation, session, num_turns=len(conversation.turns))


def _get_failures(conversation: Conversation, session: Session, *, num_turns: int) -> list[dict[str, str]]:
    messages = []
    for failure in session.failed_messages:
        if failure.conversation is conversation and failure.num_turns == num_turns:
            error = render_for_page(failure.error, detect_language(failure.text))
            messages += [make_message("user", failure.text), make_message("assistant", f"⚠ {error}")]
    return messages


def save_failure(session: Session, conversation: Conversation, text: str, error: Exception) -> None:
    """Keep a message that was refused or that failed, with its error."""
    session.add_failure(
        FailedMessage(
            conversation=conversation,
            num_turns=len(conversation.turns),
            text=text,
            error=to_user_error(error, context="the page"),
        )
    )


def format_turn(turn: Turn) -> str:
    """The changes of a turn, the prompt of its image and its hints, one line each."""
    return "\n".join([*turn.changes, f"→ {turn.prompt}", *turn.hints])


def get_last_image(context: PageContext, session: Session, conversation: Conversation) -> HistoryItem | None:
    """The last image of a conversation; it is written now for a loaded conversation, and None if it was deleted."""
    turn = conversation.turns[-1]
    if any(deleted is turn for deleted in session.deleted_turns):
        return None
    item = next((item for item in session.chat_images if item.turn is turn), None)
    if item is not None:
        return item
    metadata = context.engine.make_conversation_metadata(conversation)
    return context.save_session_image(session, session.chat_images, turn.image, metadata, turn=turn)


def save_cancelled_preview(
    context: PageContext, session: Session, request: ConversationRequest, preview: Image.Image
) -> None:
    """Write the last preview of a turn that was stopped, and add it to the history."""
    turns = request.conversation.turns
    seed = turns[-1].seed if turns else request.conversation.seed
    settings: dict[str, object] = {"width": preview.width, "height": preview.height, "unfinished": True}
    metadata = context.engine.make_metadata(request.text, seed=seed, settings=settings)
    context.save_session_image(session, session.chat_images, preview, metadata, visible_label=request.visible_label)


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
    check_conversation_size(path.read_bytes(), context.limits)
    try:
        return context.engine.load_conversation(path)
    except DianjingError as error:
        arguments = {key: path.name if str(value) == str(path) else value for key, value in error.arguments.items()}
        raise DianjingError(error.message_id, **arguments) from None
