"""The store of uploads: found by token and visitor, within limits, and never by a path that came in."""

import io

import pytest

from dianjing.demo.errors import BodyTooLongError
from dianjing.demo.limits import ServerLimits
from dianjing.demo.upload_store import UploadStore, clean_file_name


@pytest.fixture
def make_store(tmp_path):
    return lambda **limits: UploadStore(ServerLimits(**limits), parent=tmp_path)


def add(store, content=b"content", *, name="a.png", visitor="ann"):
    return store.add(io.BytesIO(content), name=name, size=len(content), visitor=visitor)


def test_a_visitor_finds_an_upload_by_its_reference(make_store):
    store = make_store()
    upload = add(store)
    assert store.find(upload.reference, visitor="ann").path.read_bytes() == b"content"
    with store.open_path(str(upload.path)) as path:
        assert path.read_bytes() == b"content"


def test_nothing_else_is_found(make_store, tmp_path):
    store = make_store()
    upload, secret = add(store), tmp_path / "secret"
    secret.write_text("secret")
    token = upload.reference.partition("/")[0]
    references = [str(secret), str(upload.path), f"{token}/../secret", f"{token}/b.png", f"{token}/", token, "", None]
    for reference in [*references, {"path": upload.reference}, f"{upload.reference}\n", f"upload-{'a' * 43}/a.png"]:
        with pytest.raises(ValueError, match="not an upload"):
            store.find(reference, visitor="ann")
    with pytest.raises(ValueError, match="not an upload"):
        store.find(upload.reference, visitor="bob")


def test_only_the_path_of_an_upload_is_opened(make_store, tmp_path):
    store = make_store()
    upload = add(store)
    (upload.path.parent / "link.png").symlink_to(tmp_path)
    for path in (tmp_path / "secret", upload.path.parent / ".." / "x", upload.path.parent / "link.png", store.root):
        with pytest.raises(ValueError, match="not an upload"), store.open_path(str(path)):
            pass
    with pytest.raises(ValueError, match="no file is given"), store.open_path(None):
        pass


def test_one_file_is_limited_and_so_are_all_of_a_visitor(make_store):
    store = make_store(max_upload_bytes=10, max_upload_bytes_per_visitor=25)
    with pytest.raises(ValueError, match="at most 10 bytes"):
        add(store, b"x" * 11)
    uploads = [add(store, b"x" * 10), add(store, b"x" * 10)]
    with pytest.raises(BodyTooLongError, match="together exceed 25 bytes"):
        add(store, b"x" * 10)
    add(store, b"x" * 10, visitor="bob")
    with store.open_path(str(uploads[1].path)):
        pass
    newest = add(store, b"x" * 10)  # in place of the one that has been read
    assert [upload.path.exists() for upload in (*uploads, newest)] == [True, False, True]


def test_the_oldest_uploads_make_room_when_all_visitors_reach_the_servers_limit(make_store):
    store = make_store(max_upload_bytes_in_all=25)
    uploads = [add(store, b"x" * 10, visitor=f"visitor {number}") for number in range(3)]
    assert [upload.path.exists() for upload in uploads] == [False, True, True]
    with pytest.raises(ValueError, match="not an upload"):
        store.find(uploads[0].reference, visitor="visitor 0")


def test_uploads_are_removed_after_their_time(make_store):
    store = make_store(result_ttl_s=1e-9)
    upload = add(store)
    with pytest.raises(ValueError, match="not an upload"):
        store.find(upload.reference, visitor="ann")
    assert not upload.path.exists()


def test_the_files_go_with_the_store(make_store):
    store = make_store()
    root = store.root
    add(store)
    assert root.stat().st_mode & 0o077 == 0
    del store
    assert not root.exists()


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("小猫.png", "小猫.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ann\\cat.png", "cat.png"),
        ("<b>\"'&\0\n.png", "_b______.png"),
        ("", "file"),
        ("..", "file"),
        (".hidden.png", "hidden.png"),
        ("a" * 500 + ".png", "a" * 80 + ".png"),
    ],
)
def test_names_are_cut_to_harmless_characters(name, cleaned):
    assert clean_file_name(name) == cleaned
