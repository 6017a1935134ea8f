"""Videos with transparent parts over HTTP: of images with alpha, and of objects that are cut out."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.demo.api.test_app import REGION, wait_for_video


@pytest.mark.parametrize("encoding", ["base64", "file"])
def test_transparent_parts_stay_in_webp_and_apng(client, encoding):
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[10:30, 15:35] = (200, 30, 30, 255)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    region = {"points": [{"x": 25, "y": 20}], "path": [[25, 20], [40, 20]]}
    fields = {"num_frames": 3, "seed": 1}
    if encoding == "base64":
        image = base64.b64encode(file.getvalue()).decode()
        created = client.post("/v1/videos", json={**fields, "regions": [region], "image": image})
    else:
        files = {"input_reference": ("a.png", file.getvalue(), "image/png")}
        created = client.post("/v1/videos", data={**fields, "regions": json.dumps([region])}, files=files)
    video = wait_for_video(client, created.json())
    for variant in ("webp", "apng"):
        response = client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        assert response.headers["content-type"] == f"image/{variant}"
        with Image.open(io.BytesIO(response.content)) as made:
            assert made.n_frames == 3
            for index, left in enumerate((15, 22, 30)):
                made.seek(index)
                alpha = np.asarray(made.convert("RGBA"))[:20, :, 3]
                assert alpha[12:20, left + 3 : left + 17].min() == 255
                assert alpha[:, : left - 3].max() == alpha[:, left + 23 :].max() == alpha[:7].max() == 0


def test_a_selected_object_is_cut_out_and_mp4_is_refused(client, square):
    region = {"points": [{"x": 14, "y": 14}], "path": [[14, 14], [18, 14]]}
    body = {"image": square, "regions": [region], "num_frames": 3, "seed": 1, "background": "transparent"}
    video = wait_for_video(client, client.post("/v1/videos", json=body).json())
    assert video["status"] == "completed", video
    for variant in ("webp", "gif", "apng"):
        response = client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        with Image.open(io.BytesIO(response.content)) as made:
            made.seek(2)
            alpha = np.asarray(made.convert("RGBA"))[..., 3]
        assert alpha[10:20, 14:24].min() == 255
        assert alpha[:5].max() == alpha[:, :8].max() == 0
    refused = client.get(f"/v1/videos/{video['id']}/content")
    assert refused.status_code == 400
    assert "use one of webp, gif, apng" in refused.json()["error"]["message"].replace(" or ", ", ")


@pytest.mark.parametrize(
    ("fields", "part"),
    [({"refine": "on"}, "refine is on"), ({"regions": [{"path": [[4, 4], [8, 8]], "target": "image"}]}, "camera move")],
)
def test_what_cannot_be_cut_out_is_refused(client, square, fields, part):
    response = client.post(
        "/v1/videos", json={"image": square, "regions": [REGION], "background": "transparent", **fields}
    )
    assert response.status_code == 400
    assert part in response.json()["error"]["message"]


def test_a_video_without_transparent_parts_is_no_apng(client, square):
    body = {"image": square, "regions": [REGION], "num_frames": 2, "num_inference_steps": 1}
    video = wait_for_video(client, client.post("/v1/videos", json=body).json())
    response = client.get(f"/v1/videos/{video['id']}/content", params={"variant": "apng"})
    assert response.status_code == 400
    assert "give one of video, webp, gif" in response.json()["error"]["message"].replace(" or ", ", ")
