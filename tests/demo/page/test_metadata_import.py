"""Metadata of uploaded files: only our own is imported, and messages name the file without its folder."""

import tracemalloc

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dianjing.demo.limits import ServerLimits
from dianjing.demo.page.metadata_import import read_upload_metadata
from dianjing.demo.upload_store import UploadStore
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.metadata import GenerationMetadata

METADATA = GenerationMetadata(prompt="a cat", seed=3, settings={"width": 64}, model="sticker", version="0")


def test_metadata_is_read_from_our_files_and_from_no_others(tmp_path):
    store = UploadStore(ServerLimits(), parent=tmp_path)
    image = Image.new("RGB", (64, 48), (120, 120, 120))
    ours, others = ("ours.png", "ours.jpg", "ours.webp"), ("other.png", "other.jpg", "other.webp")
    for name, other in zip(ours, others, strict=True):
        save_image(image, tmp_path / name, METADATA, label=None)
        image.save(tmp_path / other)
    (tmp_path / "list.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    (tmp_path / "page.png").write_text("<html>")

    def upload(name):
        file = tmp_path / name
        with file.open("rb") as stream:
            return store.add(stream, name=name, size=file.stat().st_size, visitor="ann").path

    for name in ours:
        assert read_upload_metadata(str(upload(name)), store) == METADATA
    for name in (*others, "list.mp4", "page.png"):
        with pytest.raises(ValueError, match=f"^{name} holds no settings of Dianjing") as caught:
            read_upload_metadata(str(upload(name)), store)
        assert str(tmp_path) not in str(caught.value)


def write_png(path, settings):
    info = PngInfo()
    for key, text in {"prompt": "a", "seed": "1", "settings": settings, "model": "a", "version": "0"}.items():
        info.add_itxt(key, text)
    Image.new("RGB", (64, 48)).save(path, pnginfo=info)


def write_gif(path, settings):
    Image.new("L", (64, 48)).save(path, save_all=True, comment=settings.encode())


def write_webp(path, settings):
    exif = Image.Exif()
    exif[0x010E] = settings
    Image.new("RGB", (64, 48)).save(path, exif=exif)


@pytest.mark.parametrize("write", [write_png, write_gif, write_webp])
@pytest.mark.parametrize("settings", ["[" * 100_000, '{"a":' * 50_000, "[" + "{}," * 3_000_000 + "0]"])
def test_metadata_that_would_fill_the_memory_is_none(tmp_path, write, settings):
    store = UploadStore(ServerLimits(), parent=tmp_path)
    path = tmp_path / f"bomb.{write.__name__.removeprefix('write_')}"
    write(path, settings)
    tracemalloc.start()
    with path.open("rb") as stream:
        upload = store.add(stream, name=path.name, size=path.stat().st_size, visitor="ann")
    with pytest.raises(ValueError, match=f"^{path.name} holds no settings of Dianjing"):
        read_upload_metadata(str(upload.path), store)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100 * 2**20
