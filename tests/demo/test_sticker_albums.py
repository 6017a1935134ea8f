"""Albums of stickers from images of the page, made by the bundled model."""

import csv
import io
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dianjing.demo import sticker_albums
from dianjing.demo.album_request import AlbumImage, StickerAlbumRequest
from dianjing.demo.engine import InferenceEngine
from dianjing.demo.jobs import Job
from dianjing.demo.results import ResultStore
from dianjing.demo.sticker_albums import make_sticker_album, select_album_images
from dianjing.errors import DianjingError
from dianjing.train.evaluation.transparency import sample_scenes


@pytest.fixture(scope="module")
def engine():
    return InferenceEngine.from_pretrained("sticker")


@pytest.fixture
def results():
    store = ResultStore()
    yield store
    store.close()


def make_disc():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse([16, 16, 48, 48], fill=(200, 40, 40, 255))
    return image


def test_an_album_of_a_transparent_and_an_opaque_image_is_one_archive(engine, results, tmp_path, monkeypatch):
    def move(pipe, image, motion):  # in place of the warp, which takes long and has tests of its own
        return np.stack([np.asarray(image), np.roll(np.asarray(image), 8, axis=0)])

    monkeypatch.setattr(sticker_albums, "animate_sticker", move)
    sample = next(each for each in sample_scenes(40, seed=5, size_px=128) if each.scene.scene_type == "single")
    make_disc().save(tmp_path / "disc.png")
    Image.fromarray(sample.image).save(tmp_path / "scene.png")
    images = [
        AlbumImage(path=tmp_path / "disc.png", prompt="a red apple"),
        AlbumImage(path=tmp_path / "scene.png", prompt=sample.text_en),
    ]
    request = StickerAlbumRequest(images=images, seed=3).with_defaults(engine.capabilities)
    events = []
    result = make_sticker_album(engine, Job(request, owner="me"), results, events.append)
    assert [event.step for event in events] == list(range(8))
    with zipfile.ZipFile(result.files[0]) as archive:
        names = archive.namelist()
        assert len([name for name in names if name.endswith(".gif")]) == 8
        assert {"banner.png", "cover.png", "icon.png", "meanings.csv"} <= set(names)
        rows = list(csv.reader(io.StringIO(archive.read("meanings.csv").decode("utf-8-sig"))))
        cover = np.asarray(Image.open(io.BytesIO(archive.read("cover.png"))).convert("RGBA"))
        assert Image.open(io.BytesIO(archive.read("02.gif"))).n_frames > 1
    assert rows[1] == ["01.gif", "苹果"]
    assert cover[120, 120, 3] == 255
    assert not cover[0, :, 3].any()
    assert result.metadata[0].settings == {"stickers": 8}


def test_images_without_an_object_make_no_stickers(engine, tmp_path):
    grass, cat = (AlbumImage(path=tmp_path / "a.png", prompt=prompt) for prompt in ("on the grass", "a cat"))
    assert select_album_images(engine, [grass, cat]) == [cat]
    with pytest.raises(DianjingError, match="no image in the gallery"):
        select_album_images(engine, [grass])


def test_an_album_has_as_many_images_as_the_platform_takes(engine, tmp_path):
    cat = AlbumImage(path=tmp_path / "a.png", prompt="a cat")
    assert len(select_album_images(engine, [cat] * 40)) == 24
