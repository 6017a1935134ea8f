"""Adapters with parts for text encoders, ControlNets and pictures at once over HTTP: as by the pipeline by hand."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import ImageToImagePipeline, TextToImagePipeline
from dianjing.demo.requests import ConversationRequest
from dianjing.pipelines.control_maps import detect_canny_edges
from dianjing.pipelines.named_adapters import parse_adapters
from tests.demo.conftest import make_controlnet, make_engine
from tests.dianjing.cli.test_image_conditions import make_ip_adapter
from tests.pipelines.random_adapters import make_part

TARGETS = {
    "transformer": ["attn1.to_q", "attn2.to_out.0"],
    "text_encoder": ["query", "value", "word_embeddings"],
    "text_encoder_2": ["SelfAttention.q", "SelfAttention.v", "DenseReluDense.wo"],
}
PARTS = {"all": tuple(TARGETS), "words": ("text_encoder", "text_encoder_2"), "style": ("transformer",)}
CHOICES = [
    {"all": 0.8, "words": 1.5, "style": 0.5},
    {"all": 0.8, "style": 0.5},
    {"words": 1.5},
    {},
    {"style": 0.5, "all": 0.8},
    {"all": 0.8, "words": 1.5, "style": 0.5},
]
PICTURE = Image.new("RGB", (32, 32), "white")
PICTURE.paste((200, 30, 30), (8, 8, 22, 22))
COMMON = {"prompt": "cat", "seed": 3, "num_inference_steps": 2, "guidance_scale": 2.0}


def to_png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


PICTURE_BASE64 = base64.b64encode(to_png(PICTURE)).decode()
CONDITIONS = {
    "controls": [
        {"image": PICTURE_BASE64, "controlnet": "edges", "conditioning_scale": 0.7},
        {"image": PICTURE_BASE64, "controlnet": "lines", "preprocessor": "canny", "guidance_end": 0.5},
    ],
    "ip_adapter_images": [{"image": PICTURE_BASE64, "scale": 0.6}, {"image": PICTURE_BASE64, "scale": 0.3}],
}


@pytest.fixture(scope="module")
def files(tiny_folder, tmp_path_factory):
    """The paths of three adapters, two ControlNets and an IP-Adapter."""
    folder = tmp_path_factory.mktemp("conditions")
    pipe = TextToImagePipeline.from_pretrained(tiny_folder)
    for seed, (name, components) in enumerate(PARTS.items()):
        layers = {
            f"{component}_lora_layers": make_part(getattr(pipe, component), TARGETS[component], seed=seed, scale=1.0)
            for component in components
        }
        pipe.save_lora_weights(folder / name, **layers)
    for name in ("edges", "lines"):
        make_controlnet(folder / name, tiny_folder)
    make_ip_adapter(folder / "ip-adapter", pipe.transformer)
    return folder


@pytest.fixture(scope="module")
def engine(tiny_folder, files):
    return make_engine(
        tiny_folder,
        adapters=parse_adapters([str(files / name) for name in PARTS]),
        controlnets={name: str(files / name) for name in ("edges", "lines")},
        ip_adapter=str(files / "ip-adapter"),
    )


@pytest.fixture
def client(make_client, engine):
    return make_client(engine)


def read_pixels(response):
    assert response.status_code == 200, response.text
    (item,) = response.json()["data"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).convert("RGB")).astype(int)


def generate(client, **fields):
    return read_pixels(client.post("/v1/images/generations", json=COMMON | {"size": "32x32"} | fields))


def edit(client, path="/v1/images/edits", **fields):
    data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in (COMMON | fields).items()}
    return read_pixels(client.post(path, data=data, files={"image": ("cat.png", to_png(PICTURE), "image/png")}))


def generate_by_pipeline(tiny_folder, files, adapters, *, pipeline=TextToImagePipeline, has_conditions, **arguments):
    """Pixels of a pipeline that holds nothing but these adapters."""
    nets = {"controlnet": [str(files / name) for name in ("edges", "lines")]} if has_conditions else {}
    pipe = pipeline.from_pretrained(tiny_folder, **nets)
    pipe.set_progress_bar_config(disable=True)
    for name in adapters:
        pipe.load_lora_weights(files / name, adapter_name=name)
    if adapters:
        pipe.set_adapters(list(adapters), list(adapters.values()))
    if has_conditions:
        pipe.load_ip_adapter([files / "ip-adapter"] * 2)
        pipe.set_ip_adapter_scale([0.6, 0.3])
        arguments |= {
            "control_image": [PICTURE, detect_canny_edges(PICTURE)],
            "controlnet_conditioning_scale": [0.7, 1.0],
            "control_guidance_end": [1.0, 0.5],
            "ip_adapter_image": [PICTURE, PICTURE],
        }
    generator = torch.Generator().manual_seed(COMMON["seed"])
    settings = {name: COMMON[name] for name in ("num_inference_steps", "guidance_scale")}
    return np.asarray(pipe("cat", generator=generator, **settings, **arguments).images[0]).astype(int)


def assert_same(a, b):
    """Equal but for a level of some pixels: the order of adapters, and frozen weights, change how sums are rounded."""
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("conditions", [{}, CONDITIONS], ids=["plain", "conditions"])
def test_adapters_are_added_and_removed_while_others_stay(client, tiny_folder, files, conditions):
    results = {}
    for adapters in CHOICES:
        result = generate(client, adapters=adapters, **conditions)
        key = tuple(sorted(adapters.items()))
        if key in results:
            assert_same(result, results[key])
            continue
        results[key] = result
        assert_same(result, generate_by_pipeline(tiny_folder, files, adapters, has_conditions=bool(conditions)))
    distances = [np.abs(a - b).max() for a in results.values() for b in results.values() if a is not b]
    assert min(distances) > 1


def test_conditions_and_adapters_act_together_in_edits_and_variations(client, tiny_folder, files):
    adapters = CHOICES[0]
    results = {}
    for path in ("/v1/images/edits", "/v1/images/variations"):
        for conditions in ({}, CONDITIONS):
            fields = {"adapters": adapters, "strength": 0.5, **conditions}
            result = edit(client, path, **fields)
            expected = generate_by_pipeline(
                tiny_folder,
                files,
                adapters,
                pipeline=ImageToImagePipeline,
                has_conditions=bool(conditions),
                image=PICTURE,
                strength=0.5,
            )
            assert_same(result, expected)
            results[bool(conditions)] = result
            without = {name: scale for name, scale in adapters.items() if name != "words"}
            assert np.abs(edit(client, path, **{**fields, "adapters": without}) - result).max() > 1
    assert np.abs(results[True] - results[False]).max() > 1


def test_the_metadata_name_adapters_and_conditions_in_use_and_no_others(client):
    body = COMMON | {"size": "32x32", "adapters": {"all": 0.8, "style": 0.5}, **CONDITIONS}
    response = client.post("/v1/images/generations", json={**body, "response_format": "b64_json"})
    (item,) = response.json()["data"]
    image = Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))
    text = json.dumps({key: str(value) for key, value in image.info.items()})
    assert "words" not in text
    for name in ("all", "style", "edges", "lines"):
        assert name in text


def test_a_background_is_rendered_anew_for_an_adapter_of_text_encoders_alone(make_queue, engine):
    def send(adapters):
        conversation = engine.create_conversation(seed=3, num_inference_steps=2)
        texts = ["a cat on the grass", "on the beach", "on the grass"]
        events = [
            make_queue(engine)
            .submit(ConversationRequest(conversation=conversation, text=text, adapters=each), "ann")
            .wait(120)
            for text, each in zip(texts, adapters, strict=True)
        ]
        return np.asarray(Image.open(events[-1].result.files[0]).convert("RGB"))

    with_words = send([{}, {}, {"words": 1.5}])
    np.testing.assert_array_equal(with_words, send([{"style": 0.5}, {}, {"words": 1.5}]))
    assert not np.array_equal(with_words, send([{}, {}, {}]))
