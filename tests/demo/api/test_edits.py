"""Edits and variations over HTTP: the stock openai package, and what is refused."""

import base64
import io
import json

import numpy as np
import openai
import pytest
from PIL import Image

from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.mask import grow_mask

RIM_PX = 6
FAST = {"num_inference_steps": 2, "seed": 3}


@pytest.fixture
def api(client):
    with openai.OpenAI(api_key="-", base_url="http://testserver/v1", http_client=client, max_retries=0) as api:
        yield api


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def to_png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def make_mask(*, columns=slice(0, 8)):
    """A mask as OpenAI has it: transparent where the image may change."""
    mask = np.full((32, 32, 4), 255, np.uint8)
    mask[8:20, columns, 3] = 0
    return mask


def read_image(response, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(base64.b64decode(response.data[0].b64_json))
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")), read_image_metadata(path)


def test_what_is_transparent_in_the_mask_changes_and_nothing_else(api, picture, tmp_path):
    mask = make_mask()
    files = {"image": ("a.png", to_png(picture)), "mask": ("mask.png", to_png(mask))}
    response = api.images.edit(**files, prompt="cat", model="film", extra_body=FAST)
    after, metadata = read_image(response, tmp_path)
    selected = mask[..., 3] == 0
    is_changed = (after != picture).any(axis=2)
    assert is_changed[selected].mean() > 0.9
    assert not (is_changed & ~grow_mask(selected, radius_px=RIM_PX)).any()
    assert metadata.seed == 3
    assert metadata.settings["strength"] == 1
    assert metadata.settings["mask"]["width"] == 32
    assert len(metadata.settings["image"]["pixels_sha256"]) == 64


def test_a_transparent_part_of_the_image_is_the_mask_without_one(api, picture, tmp_path):
    transparent = np.dstack([picture, make_mask()[..., 3]])
    response = api.images.edit(image=("a.png", to_png(transparent)), prompt="cat", extra_body=FAST)
    after, metadata = read_image(response, tmp_path)
    assert "mask" in metadata.settings
    assert (after[28:] == picture[28:]).all()


def test_all_of_an_opaque_image_without_a_mask_is_edited(api, picture, tmp_path):
    response = api.images.edit(
        image=("a.png", to_png(picture)), prompt="cat", n=2, extra_body={**FAST, "strength": 0.5}
    )
    after, metadata = read_image(response, tmp_path)
    assert len(response.data) == 2
    assert metadata.settings["strength"] == 0.5
    assert "mask" not in metadata.settings
    assert (after != picture).any(axis=2).mean() > 0.9


def test_a_variation_needs_no_prompt(api, picture, tmp_path):
    send = {"cast_to": dict, "files": [("image", ("a.png", to_png(picture)))], "body": {"n": "1", "seed": "3"}}
    response = api.post("/images/variations", options={"headers": {"Content-Type": "multipart/form-data"}}, **send)
    (tmp_path / "a.png").write_bytes(base64.b64decode(response["data"][0]["b64_json"]))
    metadata = read_image_metadata(tmp_path / "a.png")
    assert metadata.prompt == ""
    assert metadata.settings["strength"] == 0.6
    assert metadata.settings["guidance_scale"] == 1


def test_a_variation_of_an_image_generated_here_has_its_prompt(client, tmp_path):
    body = {"prompt": "cat", "num_inference_steps": 1, "size": "32x32"}
    generated = client.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"]
    files = {"image": ("a.png", base64.b64decode(generated))}
    response = client.post("/v1/images/variations", data={"num_inference_steps": "2"}, files=files)
    (tmp_path / "a.png").write_bytes(base64.b64decode(response.json()["data"][0]["b64_json"]))
    assert read_image_metadata(tmp_path / "a.png").prompt == "cat"


def test_a_stream_has_the_events_of_an_edit(api, picture):
    files = {"image": ("a.png", to_png(picture))}
    events = list(api.images.edit(**files, prompt="cat", stream=True, partial_images=1, extra_body=FAST))
    assert events[-1].type == "image_edit.completed"
    assert {event.type for event in events} <= {"image_edit.partial_image", "image_edit.completed"}


@pytest.mark.parametrize("path", ["edits", "variations"])
def test_a_form_names_adapters_and_control_images(make_client, extended_engine, picture, tmp_path, path):
    control = base64.b64encode(to_png(np.random.default_rng(1).integers(0, 256, (700, 700, 3), np.uint8))).decode()
    assert len(control) > 2**20  # more than forms allow for a field unless they are told to
    fields = {"prompt": "cat", **{name: str(value) for name, value in FAST.items()}}
    choices = (
        {"adapters": "{}"},
        {"adapters": '{"robot": 1.5}'},
        {"adapters": "{}", "controls": json.dumps([{"image": control, "guidance_end": 0.5}])},
    )
    images = []
    for choice in choices:
        response = make_client(extended_engine).post(
            f"/v1/images/{path}", data=fields | choice, files={"image": ("a.png", to_png(picture))}
        )
        assert response.status_code == 200, response.text
        images.append(response.json()["data"][0]["b64_json"])
    assert len(set(images)) == 3
    (tmp_path / "a.png").write_bytes(base64.b64decode(images[2]))
    (described,) = read_image_metadata(tmp_path / "a.png").settings["controls"]
    assert (described["name"], described["guidance_end"]) == ("edges", 0.5)


@pytest.mark.parametrize(
    ("files", "fields", "message"),
    [
        ({"mask": make_mask()[:16]}, {}, "32 x 16 px"),
        ({"mask": np.full((32, 32, 4), 255, np.uint8)}, {}, "mask has no transparent part"),
        ({"mask": np.zeros((32, 32, 3), np.uint8)}, {}, "mask has no transparent part"),
        ({"mask": make_mask()}, {"what": "the cat"}, "several ways"),
        ({}, {"strength": 1.5}, "strength"),
        ({}, {"strength": "NaN"}, "strength"),
        ({}, {"extend": "up=8"}, "'up=8'"),
        ({}, {"controls": '[{"image": "?"}]'}, "base64"),
        ({}, {"controls": "edges.png"}, "controls"),
        (
            {},
            {"ip_adapter_images": json.dumps([{"image": base64.b64encode(to_png(make_mask())).decode()}])},
            "ip-adapter",
        ),
        ({}, {"adapters": '{"robot": 1}'}, "--lora"),
        ({}, {"points": '[{"x": 40, "y": 3}]'}, "outside"),
        ({}, {"padding_mask_crop": 4}, "padding_mask_crop"),
        ({}, {"nonsense": "1"}, "nonsense"),
        ({}, {"prompt": ""}, "prompt"),
        ({"picture": make_mask()}, {}, "'picture'"),
    ],
    ids=str,
)
def test_what_cannot_be_edited_is_refused(client, picture, files, fields, message):
    files = {name: (f"{name}.png", to_png(array)) for name, array in {"image": picture, **files}.items()}
    response = client.post("/v1/images/edits", data={"prompt": "cat", **fields}, files=files)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]


def test_an_edit_without_an_image_or_without_a_form_is_refused(client):
    response = client.post("/v1/images/edits", data={"prompt": "cat"}, files={"mask": ("a.png", b"")})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "image"
    assert client.post("/v1/images/edits", json={"prompt": "cat"}).status_code == 415


def test_edits_have_no_transparent_background(api, picture):
    with pytest.raises(openai.BadRequestError, match="edits and variations of an image are opaque"):
        api.images.edit(image=("a.png", to_png(picture)), prompt="cat", background="transparent", extra_body=FAST)
