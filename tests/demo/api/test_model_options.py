"""Adapters and ControlNets over HTTP: listed with the model, chosen by name; sizes and times are announced."""

import base64
import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def extended_client(make_client, extended_engine):
    return make_client(extended_engine)


def generate(client, **fields):
    response = client.post("/v1/images/generations", json={"prompt": "cat", "seed": 3, "size": "32x32"} | fields)
    assert response.status_code == 200, response.text
    (item,) = response.json()["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).convert("RGB")), response.json()


def get_message(client, path="/v1/images/generations", **fields):
    response = client.post(path, json={"prompt": "cat"} | fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_the_model_is_listed_with_what_requests_may_name(extended_client):
    (model,) = extended_client.get("/v1/models").json()["data"]
    assert model["adapters"] == {"robot": 0.5, "ink-v2": 1.0}
    assert model["controlnets"] == ["edges"]
    assert model["preprocessors"] == ["canny", "lineart", "tile"]
    assert model["ip_adapter"] is False
    assert model["sizes"] == ["32x32"]
    assert model["license"] is None


def test_adapters_are_chosen_by_name_and_strength(extended_client):
    plain, _ = generate(extended_client, adapters={})
    default, _ = generate(extended_client)
    same, _ = generate(extended_client, adapters={"robot": 0.5, "ink-v2": 1})
    other, _ = generate(extended_client, adapters={"robot": 1.5})
    np.testing.assert_array_equal(default, same)
    assert not np.array_equal(plain, default)
    assert not np.array_equal(other, default)


def test_a_guider_and_a_scheduler_are_chosen_by_name(extended_client):
    plain, _ = generate(extended_client, guidance_scale=4)
    guided, _ = generate(extended_client, guidance_scale=4, guidance_mode="apg:eta=0.1")
    other, _ = generate(extended_client, guidance_scale=4, scheduler="EulerDiscrete:use_karras_sigmas")
    again, _ = generate(extended_client, guidance_scale=4)
    np.testing.assert_array_equal(plain, again)
    assert not np.array_equal(plain, guided)
    assert not np.array_equal(plain, other)


def test_the_end_of_a_prompt_that_is_not_read_is_in_the_response(extended_client):
    _, response = generate(extended_client, prompt="cat cat cat cat cat dog")
    assert {cut["text"] for cut in response["truncated"]} == {"cat dog"}
    assert generate(extended_client)[1]["truncated"] == []


def test_a_control_image_comes_in_base64(extended_client, square):
    plain, _ = generate(extended_client, adapters={})
    control = {"image": square, "controlnet": "edges"}
    controlled, _ = generate(extended_client, adapters={}, controls=[control])
    weaker, _ = generate(extended_client, adapters={}, controls=[{"image": square, "conditioning_scale": 0}])
    canny, _ = generate(extended_client, adapters={}, controls=[{**control, "preprocessor": "canny"}])
    assert not np.array_equal(canny, controlled)
    assert not np.array_equal(plain, controlled)
    np.testing.assert_array_equal(plain, weaker)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"adapters": {"../robot": 1.0}}, "this server has no adapter '../robot'; it has robot, ink-v2"),
        ({"guidance_mode": "magic"}, "guidance_mode is 'magic'; choose from cfg"),
        ({"guidance_mode": "pag:layers=99"}, "this model has the layers 0 to"),
        ({"scheduler": "Euler"}, "scheduler is 'Euler'; choose from"),
        ({"scheduler": "EulerDiscrete:beta_end=1"}, "EulerDiscreteScheduler has no option beta_end"),
        ({"adapters": {"robot": 5}}, "adapters.robot is 5.0; give a number from -2 to 2"),
        ({"adapters": ["robot"]}, "adapters is a list"),
        ({"controls": [{"controlnet": "edges"}]}, "image"),
        ({"controls": [{"image": "/etc/passwd"}]}, "the image cannot be read"),
        ({"ip_adapter_images": [{"image": "/etc/passwd"}]}, "the image cannot be read"),
    ],
)
def test_wrong_names_and_strengths_are_refused(extended_client, fields, reason):
    assert reason in get_message(extended_client, **fields)["message"]


def test_a_path_that_came_over_http_is_never_loaded(extended_client, square, adapters, controlnet):
    for path in (adapters[0].path, str(controlnet)):
        assert "has no adapter" in get_message(extended_client, adapters={path: 1.0})["message"]
        message = get_message(extended_client, controls=[{"image": square, "controlnet": path}])["message"]
        assert message.endswith("this server has edges")


@pytest.mark.parametrize("kind", ["json", "data"])
def test_videos_take_adapters_in_json_and_in_forms(extended_client, kind):
    adapters = {"robot": 1.0} if kind == "json" else '{"robot": 1.0}'
    response = extended_client.post("/v1/videos", **{kind: {"prompt": "cat", "adapters": adapters}})
    assert response.status_code == 200, response.text
    job = extended_client.job_queue._jobs[response.json()["id"]]
    assert job.request.adapters == {"robot": 1.0}
    assert response.json()["predicted_seconds"] == round(job.predicted_s, 1)


def test_a_size_that_the_model_was_not_trained_for_is_announced_in_the_callers_language(make_client, tiny_engine):
    client = make_client(tiny_engine, headers={"Accept-Language": "zh-CN"})
    _, body = generate(client, size="64x48")
    assert body["warnings"] == ["这个模型的训练尺寸为 32 x 32；用 64 x 48 生成，效果会变差"]
    _, body = generate(client)
    assert body["warnings"] == []
    video = client.post("/v1/videos", json={"prompt": "cat", "size": "64x64"}).json()
    assert len(video["warnings"]) == 1


def test_a_request_that_takes_too_long_is_refused_with_its_predicted_time(make_client, counting):
    client = make_client(counting, max_run_s=100)
    error = get_message(client, num_inference_steps=540)
    assert "would take about 9 min here; at most 2 min are allowed" in error["message"]
    assert "trained for 64 x 64" in error["message"]
