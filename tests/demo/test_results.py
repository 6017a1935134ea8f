"""Result files: metadata and labels are inside, and nobody else may read them."""

import numpy as np
import pytest
from PIL import Image

from dianjing.demo.results import Labelling, ResultStore
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video_reading import read_video

METADATA = GenerationMetadata(prompt="小猫", seed=3, settings={}, model="sticker", version="0")
GRAY = Image.new("RGB", (64, 64), (128, 128, 128))


@pytest.fixture
def make_store():
    """Make result stores, and remove their files after the test."""
    stores = []

    def make(**labelling):
        stores.append(ResultStore(Labelling(**labelling)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def test_the_visible_label_is_in_the_corner_and_large_enough(make_store):
    [path] = make_store(has_visible_label=True).save_images("job", [GRAY.resize((200, 300))], [METADATA])
    with Image.open(path) as image:
        changed = np.argwhere((np.asarray(image.convert("RGB")) != 128).any(-1))
    rows, columns = changed.max(0) - changed.min(0) + 1
    assert rows >= 0.05 * 200
    assert columns > rows
    assert tuple(changed.max(0)) == (299, 199)
    assert columns < 100
    assert read_image_metadata(path) == METADATA


def test_the_visible_label_of_a_transparent_image_is_visible_and_the_rest_stays_transparent(make_store):
    clear = Image.new("RGBA", (200, 300), (0, 0, 0, 0))
    [path] = make_store(has_visible_label=True).save_images("job", [clear], [METADATA])
    with Image.open(path) as image:
        alpha = np.asarray(image.getchannel("A"))
    assert alpha[-10:, -30:].min() >= 150  # the ground of the text
    assert not alpha[:200].any()


def test_without_a_visible_label_the_pixels_are_unchanged(make_store):
    [path] = make_store().save_images("job", [GRAY], [METADATA])
    with Image.open(path) as image:
        assert image.getcolors() == [(64 * 64, (128, 128, 128))]


def test_a_video_shows_its_label_for_two_seconds(make_store):
    frames = np.full((20, 64, 64, 3), 128, np.uint8)
    paths = make_store(has_visible_label=True).save_video("job", frames, METADATA, fps=8)
    written = read_video(paths[0]).frames.astype(int)
    is_labelled = np.abs(written - 128).max(axis=(1, 2, 3)) > 60
    assert is_labelled.tolist() == [True] * 16 + [False] * 4


def test_the_label_of_a_transparent_video_is_opaque_and_the_rest_stays_transparent(make_store):
    frames = np.zeros((2, 64, 64, 4), np.uint8)
    paths = make_store(has_visible_label=True).save_video("job", frames, METADATA, fps=8)
    assert [path.suffix for path in paths] == [".mp4", ".webp", ".gif", ".apng"]
    for path in (paths[1], paths[3]):
        with Image.open(path) as video:
            alpha = np.asarray(video.convert("RGBA"))[..., 3]
        assert alpha[-20:, -30:].max() > 200
        assert alpha[:32].max() == 0


def test_the_folder_of_results_is_private(make_store):
    store = make_store()
    assert store.root.stat().st_mode & 0o077 == 0
