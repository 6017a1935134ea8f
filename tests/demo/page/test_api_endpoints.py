"""Endpoints for programs: the work of each tab by gradio_client, with plain arguments."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.mask import grow_mask
from dianjing.pipelines.media.video import read_video_metadata

pytestmark = pytest.mark.timeout(600)  # the machine may be busy
RIM_PX = 9  # in which an edit fades into the image


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def image_file(client):
    """The file of a generated image."""
    files = client.predict("a cat on the grass", num_inference_steps=6, seed=5, api_name="/image")
    return Path(get_path(files[0]))


def get_path(file):
    return file["path"] if isinstance(file, dict) else file


def encode(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_an_image_comes_as_a_file_with_its_settings(image_file):
    metadata = read_image_metadata(image_file)
    assert (metadata.prompt, metadata.seed, metadata.settings["num_inference_steps"]) == ("a cat on the grass", 5, 6)


@pytest.mark.parametrize("name", ["mask", "points", "words"])
def test_an_edit_changes_what_is_selected_and_nothing_else(client, image_file, name):
    mask = np.zeros((128, 128), bool)
    mask[40:80, 40:80] = True
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    selections = {
        "mask": {"mask": base64.b64encode(buffer.getvalue()).decode()},
        "points": {"points": [[64, 64]], "labels": [1]},
        "words": {"words": "cat"},
    }
    files = client.predict(
        encode(image_file), "a dog", **selections[name], num_inference_steps=2, seed=3, api_name="/edit"
    )
    path = Path(get_path(files[0]))
    before, after = (np.asarray(Image.open(each).convert("RGB")) for each in (image_file, path))
    is_changed = (before != after).any(axis=2)
    assert 0 < is_changed.mean() < 0.9
    assert name in read_image_metadata(path).settings
    if name == "mask":
        assert not (is_changed & ~grow_mask(mask, radius_px=RIM_PX)).any()


def test_variations_keep_the_prompt_of_an_image_generated_here(client, image_file):
    files = client.predict(encode(image_file), num_inference_steps=2, seed=3, num_images=2, api_name="/variations")
    assert len(files) == 2
    metadata = read_image_metadata(Path(get_path(files[0])))
    assert metadata.prompt == "a cat on the grass"
    assert metadata.settings["strength"] == 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 1.5}, "strength"),
        ({"mask": "?"}, "base64"),
        ({"points": [[200, 3]]}, "outside"),
        ({"words": "cat", "extend": "left=8"}, "several ways"),
    ],
    ids=str,
)
def test_an_edit_that_cannot_be_is_refused(client, image_file, arguments, message):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=message):
        client.predict(encode(image_file), "a dog", **arguments, api_name="/edit")


def test_points_give_a_mask(client, image_file):
    file = client.predict(encode(image_file), [[64, 64]], [1], api_name="/mask")
    mask = np.asarray(Image.open(get_path(file)))
    assert mask.shape == (128, 128)
    assert mask[64, 64] == 255
    assert 0 < (mask == 255).mean() < 1


def test_an_animation_comes_in_all_formats(client, image_file):
    regions = [{"points": [[64, 64]], "motion": "jump"}, {"points": [[4, 4]], "labels": [1], "motion": "sway"}]
    files = client.predict(
        encode(image_file), regions, num_frames=2, num_inference_steps=2, guidance_scale=1, api_name="/animate"
    )
    paths = [Path(get_path(file)) for file in files]
    assert [path.suffix for path in paths] == [".mp4", ".webp", ".gif"]
    metadata, _ = read_video_metadata(paths[0])
    assert [region["motion"] for region in metadata.settings["regions"]] == ["jump", "sway"]


def test_a_path_is_followed_and_one_that_leaves_the_image_is_refused(client, image_file):
    from gradio_client.exceptions import AppError

    motion = {"path": [[64, 64], [80, 60]], "times": [0, 0.5], "turn": 10, "scale": 0.9, "anchor": [64, 80]}
    regions = [{"points": [[64, 64]], **motion}, {"target": "image", "turn": 5}]
    files = client.predict(encode(image_file), regions, num_frames=2, api_name="/animate")
    settings = read_video_metadata(Path(get_path(files[0])))[0].settings
    assert settings["refine"] == "off"
    region, camera = settings["regions"]
    assert {**region, "anchor": list(region["anchor"].values())}.items() >= motion.items()
    assert (camera["target"], camera["turn"]) == ("image", 5)
    regions[0]["path"][1] = [199, 30]
    with pytest.raises(AppError, match="outside the image of 128 x 128"):
        client.predict(encode(image_file), regions, num_frames=2, api_name="/animate")


def test_a_prompt_gives_a_video_in_three_formats(client):
    files = client.predict("a cat", seconds=0.25, num_inference_steps=2, guidance_scale=1, api_name="/video")
    assert len(files) == 3


def test_a_conversation_continues_when_it_is_sent_back(client):
    first = client.predict("a cat", api_name="/chat")
    second = client.predict("on the beach", conversation=first["conversation"], api_name="/chat")
    assert "beach" in second["prompt"]
    assert "cat" in second["prompt"]
    assert len(json.loads(second["conversation"])["turns"]) == 2
    assert Path(get_path(second["image"])).suffix == ".png"


def test_a_page_of_another_site_reaches_no_endpoint(address):
    import httpx

    own_origin = address.rstrip("/")
    for origin, status in (("https://evil.example", 403), ("null", 403), (own_origin, 200), (None, 200)):
        headers = {} if origin is None else {"Origin": origin}
        response = httpx.post(
            f"{address}gradio_api/call/mask", json={"data": ["", [], []]}, headers=headers, timeout=120
        )
        assert response.status_code == status
    assert httpx.get(address, headers={"Origin": "https://evil.example"}, timeout=120).status_code == 403


def test_an_error_is_in_the_language_of_the_program(address):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False, headers={"Accept-Language": "zh-CN"})
    with pytest.raises(AppError, match="请填写 1 到 1000 之间的整数"):
        client.predict("a cat", num_inference_steps=0, api_name="/image")
