"""Sessions of visitors: found again by token, kept within limits, removed when cleared."""

from dianjing.demo.page.sessions import (
    MAX_CONVERSATIONS,
    MAX_HISTORY_ITEMS,
    MAX_SESSIONS,
    SessionStore,
    find_history_item,
)
from dianjing.pipelines.media.metadata import GenerationMetadata

METADATA = GenerationMetadata(prompt="a cat", seed=3, settings={"width": 64}, model="sticker", version="0")


def test_a_session_is_found_by_its_token_and_before_that_by_the_load_of_the_page():
    store = SessionStore()
    token, session = store.get_session(None, "first load")
    assert store.get_session(None, "first load") == (token, session)
    assert store.get_session(token, "second load")[1] is session
    assert store.get_session(None, "second load")[1] is not session
    assert store.get_session("guessed", "third load")[0] != "guessed"


def test_history_keeps_its_own_files_until_it_is_cleared(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(b"image")
    store = SessionStore()  # its folder is removed with it
    _, session = store.get_session(None, "load")
    item = session.add_item(session.images, [file], METADATA)
    file.unlink()
    assert item.files[0].read_bytes() == b"image"
    assert find_history_item(session.images, str(item.files[0])) is item
    session.clear(session.images)
    assert not item.files[0].exists()
    assert session.images == []


def test_the_oldest_items_conversations_and_sessions_above_the_limits_are_removed(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(b"image")
    store = SessionStore()
    _, session = store.get_session(None, "first load")
    oldest = session.add_item(session.images, [file], METADATA)
    for _ in range(MAX_HISTORY_ITEMS):
        session.add_item(session.images, [file], METADATA)
    assert len(session.images) == MAX_HISTORY_ITEMS
    assert not oldest.files[0].exists()
    for number in range(MAX_CONVERSATIONS + 3):
        session.add_conversation(number)
    assert len(session.conversations) == MAX_CONVERSATIONS
    assert session.current_conversation == MAX_CONVERSATIONS + 2
    for number in range(MAX_SESSIONS):
        store.get_session(None, f"load {number}")
    assert not session.folder.exists()
