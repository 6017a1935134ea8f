"""Uploaded files: only Gradio's upload folder is read, and only our own metadata is imported."""

from pathlib import Path

import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from dianjing.demo.limits import ServerLimits
from dianjing.demo.page.metadata_import import read_upload, read_upload_metadata
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.metadata import GenerationMetadata

METADATA = GenerationMetadata(prompt="a cat", seed=3, settings={"width": 64}, model="sticker", version="0")
LIMITS = ServerLimits()


@pytest.fixture
def upload_folder(monkeypatch, tmp_path):
    """A folder in place of Gradio's upload folder."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    assert Path(get_upload_folder()) == folder
    return folder


def test_only_uploads_are_read_and_none_that_is_too_large(upload_folder, tmp_path):
    (upload_folder / "a.png").write_bytes(b"content")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (upload_folder / "link.png").symlink_to(secret)
    assert read_upload(str(upload_folder / "a.png"), LIMITS) == b"content"
    for path in (
        secret,
        upload_folder / ".." / "secret",
        upload_folder / "link.png",
        upload_folder,
        upload_folder / "none",
    ):
        with pytest.raises(ValueError, match="not an upload"):
            read_upload(str(path), LIMITS)
    with pytest.raises(ValueError, match="at most 3 bytes"):
        read_upload(str(upload_folder / "a.png"), ServerLimits(max_upload_bytes=3))


def test_metadata_is_read_from_our_files_and_from_no_others(upload_folder):
    image = Image.new("RGB", (64, 48), (120, 120, 120))
    save_image(image, upload_folder / "ours.png", METADATA, label=None)
    assert read_upload_metadata(upload_folder / "ours.png", LIMITS) == METADATA
    image.save(upload_folder / "other.png")
    (upload_folder / "list.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    (upload_folder / "page.png").write_text("<html>")
    for name in ("other.png", "list.mp4", "page.png"):
        with pytest.raises(ValueError, match=f"^{name} holds no settings of Dianjing") as caught:
            read_upload_metadata(upload_folder / name, LIMITS)
        assert str(upload_folder) not in str(caught.value)
