"""What the page does without a browser: the canvas, the shelf, uploads, settings, what programs give."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from gradio.utils import get_upload_folder
from PIL import Image

from dianjing.demo.limits import ServerLimits
from dianjing.demo.page.api_endpoints import parse_image, parse_points, parse_region
from dianjing.demo.page.canvas import REGION_COLOURS, RegionCanvas, RegionSelection, to_regions
from dianjing.demo.page.metadata_import import read_upload, read_upload_metadata
from dianjing.demo.page.sessions import (
    MAX_CONVERSATIONS,
    MAX_HISTORY_ITEMS,
    MAX_SESSIONS,
    SessionStore,
    find_history_item,
)
from dianjing.demo.page.settings import randomize_seed, to_request_arguments
from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.segmentation.base import Point

RECORD = GenerationMetadata(prompt="a cat", seed=3, settings={"width": 64}, model="sticker", version="0")
LIMITS = ServerLimits()


@pytest.fixture
def uploaded(monkeypatch, tmp_path):
    """A folder that stands for Gradio's uploads."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    assert Path(get_upload_folder()) == folder
    return folder


def grey(width=64, height=48):
    return Image.new("RGB", (width, height), (120, 120, 120))


def test_a_click_on_the_shown_picture_is_a_place_of_the_given_one():
    canvas = RegionCanvas(image=grey())
    assert canvas.render().size == (64 * canvas.display_scale, 48 * canvas.display_scale)
    assert canvas.to_image_coordinates(10 * canvas.display_scale, 20 * canvas.display_scale) == (10, 20)
    assert RegionCanvas(image=grey(2000, 1000)).display_scale == 1


def test_each_region_is_tinted_in_its_own_colour_and_the_rest_is_left():
    first, second = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    first[10:20, 10:20], second[30:40, 40:50] = True, True
    canvas = RegionCanvas(image=grey(), regions=(RegionSelection(mask=first), RegionSelection(mask=second)))
    shown = np.asarray(canvas.render(), int)
    scale = canvas.display_scale
    for (row, column), tint in (((15, 15), REGION_COLOURS[0]), ((35, 45), REGION_COLOURS[1])):
        towards = np.array(tint) - 120
        moved = shown[row * scale, column * scale] - 120
        assert (np.sign(moved) == np.sign(towards)).all()
    assert (shown[5 * scale, 50 * scale] == 120).all()


def test_a_click_goes_to_the_active_region_only():
    canvas = RegionCanvas(image=grey()).with_new_region().with_points([Point(x=1, y=2)], np.ones((48, 64), bool))
    assert [len(region.points) for region in canvas.regions] == [0, 1]
    assert canvas.with_active(0).active_points == ()
    assert canvas.with_active(9).active_index == 1


def test_regions_carry_their_own_motion_and_strength():
    canvas = RegionCanvas(image=grey()).with_points([Point(x=1, y=1)], None).with_new_region()
    canvas = canvas.with_points([Point(x=2, y=2)], None)
    regions = to_regions(canvas, ["jump", "sway", ""], [0.2, 0.8, 0.5])
    assert [(r.motion, r.strength, r.points[0].x) for r in regions] == [("jump", 0.2, 1), ("sway", 0.8, 2)]


def test_a_visitor_finds_the_same_things_by_token_and_before_it_by_session():
    shelf = SessionStore()
    token, visit = shelf.get_session(None, "session")
    assert shelf.get_session(None, "session") == (token, visit)
    assert shelf.get_session(token, "another session")[1] is visit
    assert shelf.get_session(None, "another session")[1] is not visit
    assert shelf.get_session("guessed", "third")[0] != "guessed"


def test_what_is_kept_outlives_the_workers_file_until_it_is_cleared(tmp_path):
    file = tmp_path / "made.png"
    file.write_bytes(b"picture")
    shelf = SessionStore()  # its folder goes with it
    _, visit = shelf.get_session(None, "session")
    made = visit.add_item(visit.images, [file], RECORD)
    file.unlink()
    assert made.files[0].read_bytes() == b"picture"
    assert find_history_item(visit.images, str(made.files[0])) is made
    visit.clear(visit.images)
    assert not made.files[0].exists()
    assert visit.images == []


def test_the_shelf_stays_within_bounds(tmp_path):
    file = tmp_path / "made.png"
    file.write_bytes(b"picture")
    shelf = SessionStore()
    _, visit = shelf.get_session(None, "first")
    oldest = visit.add_item(visit.images, [file], RECORD)
    for _ in range(MAX_HISTORY_ITEMS):
        visit.add_item(visit.images, [file], RECORD)
    assert len(visit.images) == MAX_HISTORY_ITEMS
    assert not oldest.files[0].exists()
    for number in range(MAX_CONVERSATIONS + 3):
        visit.add_conversation(number)
    assert len(visit.conversations) == MAX_CONVERSATIONS
    assert visit.current_conversation == MAX_CONVERSATIONS + 2
    for number in range(MAX_SESSIONS):
        shelf.get_session(None, f"visitor {number}")
    assert not visit.folder.exists()


def test_only_uploads_are_read_and_none_that_is_too_large(uploaded, tmp_path):
    (uploaded / "a.png").write_bytes(b"content")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (uploaded / "link.png").symlink_to(secret)
    assert read_upload(str(uploaded / "a.png"), LIMITS) == b"content"
    for path in (secret, uploaded / ".." / "secret", uploaded / "link.png", uploaded, uploaded / "none"):
        with pytest.raises(ValueError, match="no upload"):
            read_upload(str(path), LIMITS)
    with pytest.raises(ValueError, match="at most 3"):
        read_upload(str(uploaded / "a.png"), ServerLimits(max_upload_bytes=3))


def test_settings_come_back_from_a_file_made_here_and_from_no_other(uploaded):
    save_image(grey(), uploaded / "ours.png", RECORD, label=None)
    assert read_upload_metadata(uploaded / "ours.png", LIMITS) == RECORD
    grey().save(uploaded / "other.png")
    (uploaded / "list.mp4").write_text("#EXTM3U\nfile:///etc/passwd")
    (uploaded / "page.png").write_text("<html>")
    for name in ("other.png", "list.mp4", "page.png"):
        with pytest.raises(ValueError, match="not made by Dianjing") as caught:
            read_upload_metadata(uploaded / name, LIMITS)
        assert str(uploaded) not in str(caught.value)


def test_a_kept_seed_is_used_and_another_is_left_to_chance():
    values = ["", 64.0, None, 30, 4.5, "7", True, False]
    assert to_request_arguments(values) == {
        "negative_prompt": None,
        "width": 64,
        "height": None,
        "num_inference_steps": 30,
        "guidance_scale": 4.5,
        "seed": 7,
        "visible_label": False,
    }
    values[6] = False
    assert to_request_arguments(values)["seed"] is None
    values[5:7] = ["seven", True]
    with pytest.raises(ValueError, match="whole number"):
        to_request_arguments(values)
    assert randomize_seed()[0] != randomize_seed()[0]


def test_a_program_sends_pictures_in_base64_and_points_as_numbers():
    buffer = io.BytesIO()
    grey().save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert parse_image(text, LIMITS).size == (64, 48)
    assert parse_image(f"data:image/png;base64,{text}", LIMITS).size == (64, 48)
    with pytest.raises(ValueError, match="no base64"):
        parse_image("/etc/passwd?", LIMITS)
    with pytest.raises(ValueError, match="cannot be read"):
        parse_image(base64.b64encode(b"<svg>").decode(), LIMITS)
    assert parse_points([[1, 2], [3.5, 4]], [1, 0]) == [Point(x=1, y=2), Point(x=3.5, y=4, positive=False)]
    region = parse_region(1, {"points": [[1, 2]], "motion": "jump"})
    assert (region.motion, region.strength, region.points[0].positive) == ("jump", 0.5, True)


@pytest.mark.parametrize(
    ("points", "labels", "said"),
    [
        ([[1, 2]], [], "give one for each"),
        ([[1]], [1], "two numbers"),
        ([["a", 1]], [1], "two numbers"),
        (["12"], [1], "two numbers"),
    ],
)
def test_points_that_are_none_are_refused_by_name(points, labels, said):
    with pytest.raises(ValueError, match=said):
        parse_points(points, labels)


@pytest.mark.parametrize("region", [None, {}, {"points": [[1, 2]]}, {"points": [], "motion": "a", "mask": 1}])
def test_a_region_that_is_none_is_refused_by_number(region):
    with pytest.raises(ValueError, match="region 2"):
        parse_region(2, region)
