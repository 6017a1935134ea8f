"""Adapters, ControlNets and a chat model of a server: chosen by name, and without a trace in the requests after."""

import json

import numpy as np
import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel
from PIL import Image

from dianjing import Point, Region, TextToImagePipeline
from dianjing.demo.engine import InferenceEngine
from dianjing.demo.jobs import Done
from dianjing.demo.requests import ConversationRequest, ImageToVideoRequest, TextToImageRequest, TextToVideoRequest
from dianjing.pipelines.control_maps import detect_canny_edges
from dianjing.pipelines.image_conditions import ControlInput, PictureInput
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.video_reading import read_video
from dianjing.pipelines.named_adapters import NamedAdapter
from tests.demo.conftest import make_engine
from tests.dianjing.cli.test_image_conditions import make_ip_adapter

SQUARE = Image.new("RGB", (32, 32), "white")
SQUARE.paste((200, 30, 30), (8, 8, 22, 22))


def make_requests(engine, adapters):
    """A request of every kind, with these adapters; the last turn of the conversation returns to its background."""
    common = {"seed": 3, "adapters": adapters}
    region = Region(motion="jump", points=[Point(x=16, y=16)])
    conversation = engine.create_conversation(seed=3, num_inference_steps=2)
    return [
        TextToImageRequest(prompt="cat", num_images=2, **common),
        TextToVideoRequest(prompt="cat", num_frames=5, **common),
        ImageToVideoRequest(image=SQUARE, regions=[region], num_frames=3, **common),
        ConversationRequest(conversation=conversation, text="a cat on the grass", adapters=adapters),
        ConversationRequest(conversation=conversation, text="on the beach", adapters=adapters),
        ConversationRequest(conversation=conversation, text="on the grass", adapters=adapters),
    ]


def generate(make_queue, engine, requests):
    """All pixels of the results, each as one array."""
    queue, pixels = make_queue(engine), []
    for request in requests:
        event = queue.submit(request, "ann").wait(120)
        assert isinstance(event, Done), event
        files = event.result.files
        if files[0].suffix == ".png":
            pixels.append(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files]))
            assert pixels[-1].any()  # not black, as an image of NaN
        else:
            pixels.append(read_video(next(path for path in files if path.suffix == ".webp")).frames)
    return pixels


def generate_by_fresh_engine(make_queue, model_folder, sources, adapters):
    """The results of an engine that was started with nothing but these adapters, and has run nothing before."""
    chosen = [NamedAdapter(name=each.name, path=each.path) for each in sources if each.name in adapters]
    engine = make_engine(model_folder, adapters=chosen)
    return generate(make_queue, engine, make_requests(engine, adapters))


def test_switching_adapters_leaves_no_trace_in_any_kind_of_request(
    make_queue, extended_engine, adapters, tiny_video_folder
):
    assert [each.name for each in adapters] == ["robot", "ink-v2"]
    choices = [{"robot": 0.5}, {}, {"robot": 1.5, "ink-v2": -0.7}, {"ink-v2": 1.0}, {"robot": 0.5}, {}]
    fresh = {}
    for choice in choices:
        results = generate(make_queue, extended_engine, make_requests(extended_engine, choice))
        key = json.dumps(choice)
        if key not in fresh:
            fresh[key] = generate_by_fresh_engine(make_queue, tiny_video_folder, adapters, choice)
        for result, expected in zip(results, fresh[key], strict=True):
            np.testing.assert_array_equal(result, expected)
    for other in ({"robot": 0.5}, {"ink-v2": 1.0}):
        for plain, changed in zip(fresh["{}"], fresh[json.dumps(other)], strict=True):
            assert not np.array_equal(plain, changed)


def test_an_engine_with_adapters_that_are_off_equals_one_without(make_queue, extended_engine, tiny_video_folder):
    plain = make_engine(tiny_video_folder)
    expected = generate(make_queue, plain, make_requests(plain, None))
    for result, truth in zip(
        generate(make_queue, extended_engine, make_requests(extended_engine, {})), expected, strict=True
    ):
        np.testing.assert_array_equal(result, truth)


def test_a_background_that_was_rendered_without_an_adapter_is_rendered_anew_with_it(make_queue, extended_engine):
    def send(texts, scales):
        conversation = extended_engine.create_conversation(seed=3, num_inference_steps=2)
        requests = [ConversationRequest(conversation=conversation, text=text, adapters={}) for text in texts[:-1]]
        requests.append(ConversationRequest(conversation=conversation, text=texts[-1], adapters=scales))
        return generate(make_queue, extended_engine, requests)[-1]

    texts = ["a cat on the grass", "on the beach", "on the grass"]
    changed = send(texts, {"robot": 1.5})
    np.testing.assert_array_equal(changed, send(["a cat on the beach", "on the grass"], {"robot": 1.5}))
    assert not np.array_equal(changed, send(texts, {}))


def test_a_run_that_fails_or_is_stopped_leaves_no_adapter_active(make_queue, extended_engine, monkeypatch):
    expected = generate(make_queue, extended_engine, [TextToImageRequest(prompt="cat", seed=1, adapters={})])[0]
    with monkeypatch.context() as patch:
        patch.setattr(extended_engine.text_to_image.scheduler, "step", None)
        request = TextToImageRequest(prompt="cat", seed=1, adapters={"robot": 2.0})
        assert not isinstance(make_queue(extended_engine).submit(request, "ann").wait(60), Done)
    result = generate(make_queue, extended_engine, [TextToImageRequest(prompt="cat", seed=1, adapters={})])[0]
    np.testing.assert_array_equal(result, expected)


def test_without_a_choice_the_adapters_are_those_that_the_server_started_with(make_queue, extended_engine, adapters):
    job = make_queue(extended_engine).submit(TextToImageRequest(prompt="cat", seed=1), "ann")
    assert job.request.adapters == {"robot": 0.5, "ink-v2": 1.0}
    metadata = read_image_metadata(job.wait(60).result.files[0])
    assert [(each["name"], each["scale"]) for each in metadata.settings["lora"]] == [("robot", 0.5), ("ink-v2", 1.0)]
    assert all(len(each["sha256"]) == 64 for each in metadata.settings["lora"])
    assert adapters[0].path not in json.dumps(metadata.settings)


def test_adapters_and_controlnets_that_the_server_was_not_started_with_are_refused(
    make_queue, extended_engine, image_engine
):
    queue = make_queue(extended_engine)
    with pytest.raises(ValueError, match="no adapter '/etc/passwd'; it has robot, ink-v2"):
        queue.submit(TextToImageRequest(prompt="cat", adapters={"/etc/passwd": 1.0}), "ann")
    with pytest.raises(ValueError, match=r"controlnet is '\.\./edges'; this server has edges"):
        queue.submit(
            TextToImageRequest(prompt="cat", controls=[ControlInput(image=SQUARE, controlnet="../edges")]), "ann"
        )
    with pytest.raises(ValueError, match="start the server with --lora"):
        make_queue(image_engine).submit(TextToImageRequest(prompt="cat", adapters={"robot": 1.0}), "ann")
    with pytest.raises(ValueError, match="start the server with --controlnet"):
        make_queue(image_engine).submit(TextToImageRequest(prompt="cat", controls=[ControlInput(image=SQUARE)]), "ann")
    with pytest.raises(ValueError, match="start the server with --ip-adapter"):
        queue.submit(TextToImageRequest(prompt="cat", pictures=[PictureInput(image=SQUARE)]), "ann")
    depth = ControlInput(image=SQUARE, preprocessor="depth")
    with pytest.raises(ValueError, match="preprocessor is 'depth'; this server has canny, lineart"):
        queue.submit(TextToImageRequest(prompt="cat", controls=[depth]), "ann")
    with pytest.raises(ValueError, match="controls has 5 images; give at most 4"):
        TextToImageRequest(prompt="cat", controls=[ControlInput(image=SQUARE)] * 5)
    for scale in (float("nan"), 3.0, "1", True):
        with pytest.raises(ValueError, match=r"adapters\.robot is .* to 2"):
            TextToImageRequest(prompt="cat", adapters={"robot": scale})
    with pytest.raises(ValueError, match="give an object with a strength for each name"):
        TextToImageRequest(prompt="cat", adapters=["robot"])


def test_a_controlnet_follows_its_image_and_leaves_no_trace(make_queue, extended_engine, controlnet, tiny_video_folder):
    loaded = HunyuanDiT2DControlNetModel.from_pretrained(controlnet)
    pipe = TextToImagePipeline.from_pipe(make_engine(tiny_video_folder).text_to_image, controlnet=loaded)
    common = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(3)}
    expected = pipe("cat", control_image=SQUARE, controlnet_conditioning_scale=0.5, **common).images[0]
    request = {"prompt": "cat", "seed": 3, "num_inference_steps": 2, "adapters": {}}
    controlled = TextToImageRequest(controls=[ControlInput(image=SQUARE, conditioning_scale=0.5)], **request)
    plain = TextToImageRequest(**request)
    before, result, after = generate(make_queue, extended_engine, [plain, controlled, plain])
    np.testing.assert_array_equal(result[0], np.asarray(expected))
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(before, result)
    metadata = make_queue(extended_engine).submit(controlled, "ann").wait(60).result.metadata[0]
    (described,) = metadata.settings["controls"]
    assert (described["name"], described["conditioning_scale"]) == ("edges", 0.5)


def test_two_controlnets_and_pictures_act_together_and_leave_no_trace(
    make_queue, controlnet, tiny_video_folder, tmp_path
):
    transformer = make_engine(tiny_video_folder).text_to_image.transformer
    paths = {"controlnets": {"edges": str(controlnet), "canny": str(controlnet)}}
    engine = make_engine(
        tiny_video_folder, **paths, ip_adapter=str(make_ip_adapter(tmp_path / "ip-adapter", transformer))
    )
    request = {"prompt": "cat", "seed": 3, "num_inference_steps": 2}
    edges, canny = (
        ControlInput(image=SQUARE, controlnet="edges"),
        ControlInput(image=SQUARE, controlnet="canny", preprocessor="canny", guidance_end=0.5),
    )
    pictures = [PictureInput(image=SQUARE, scale=0.6), PictureInput(image=SQUARE.rotate(90), scale=1.2)]
    requests = [
        TextToImageRequest(**request, **conditions)
        for conditions in ({}, {"controls": [edges, canny], "pictures": pictures}, {"controls": [edges]}, {})
    ]
    before, both, one, after = generate(make_queue, engine, requests)
    np.testing.assert_array_equal(before, after)
    pipe = TextToImagePipeline.from_pipe(
        make_engine(tiny_video_folder).text_to_image, controlnet=[str(controlnet), str(controlnet)]
    )
    pipe.load_ip_adapter([tmp_path / "ip-adapter"] * 2)
    pipe.set_ip_adapter_scale([0.6, 1.2])
    expected = pipe(
        "cat",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        control_image=[SQUARE, detect_canny_edges(SQUARE)],
        control_guidance_end=[1.0, 0.5],
        ip_adapter_image=[picture.image for picture in pictures],
    ).images[0]
    np.testing.assert_array_equal(both[0], np.asarray(expected))
    assert not np.array_equal(both, one)


def test_a_controlnet_of_another_model_is_refused_by_its_path(controlnet, tmp_path):
    with pytest.raises(ValueError, match="use a ControlNet made for this model"):
        InferenceEngine.from_pretrained("sticker", controlnets={"edges": str(controlnet)})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{tmp_path.name} does not load as a ControlNet"):
        InferenceEngine.from_pretrained("sticker", controlnets={"edges": str(tmp_path)})


def test_instructions_are_parsed_by_the_chat_model_and_else_by_the_rules(tiny_video_folder, make_queue, tmp_path):
    instructions = []

    def complete(messages):
        instructions.append(messages[-1]["content"])
        edit = {"edit": "new_scene", "objects": [{"name": "dog"}], "background": "beach", "relation": None}
        return json.dumps({"edits": [edit]}) if len(instructions) == 1 else "no idea"

    engine = InferenceEngine.from_pretrained(str(tiny_video_folder), complete_chat=complete)
    conversation = engine.create_conversation(seed=1, num_inference_steps=1)
    result = (
        make_queue(engine).submit(ConversationRequest(conversation=conversation, text="woof, sand"), "ann").wait(60)
    )
    assert "dog" in result.result.turn.prompt
    assert "beach" in result.result.turn.prompt
    conversation.save(tmp_path / "conversation.json")
    loaded = engine.load_conversation(tmp_path / "conversation.json")
    result = make_queue(engine).submit(ConversationRequest(conversation=loaded, text="add a cat"), "ann").wait(60)
    assert "cat" in result.result.turn.prompt
    assert len(instructions) == 3
    assert result.result.turn.hints
