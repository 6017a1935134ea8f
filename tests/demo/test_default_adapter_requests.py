"""Requests to a model with a default adapter: which draw with it, and what their results say."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from dianjing import DianjingError
from dianjing.demo.api.edit_bodies import ImageEditSchema, ImageVariationSchema
from dianjing.demo.api.schemas import ImageGenerationSchema
from dianjing.demo.edit_request import EditRequest
from dianjing.demo.jobs import Done
from dianjing.demo.limits import ServerLimits
from dianjing.demo.requests import ConversationRequest, TextToImageRequest, TextToVideoRequest
from dianjing.pipelines.editing.edit import ImageEdit
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.named_adapters import NamedAdapter
from dianjing.weights.adapter_sampling import AdapterSampling, write_adapter_sampling
from tests.demo.conftest import make_adapter, make_engine

SAMPLING = AdapterSampling(num_inference_steps=3, guidance_scale=1.0)


def make_few_steps(folder, model_folder, *, seed):
    make_adapter(folder, model_folder, seed=seed)
    scheduler = DDIMScheduler.from_pretrained(
        model_folder / "scheduler", timestep_spacing="trailing", clip_sample=False
    )
    scheduler.save_pretrained(folder / "scheduler")
    write_adapter_sampling(folder, SAMPLING)
    return folder


@pytest.fixture(scope="module")
def fast_folder(tiny_video_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "fast"
    shutil.copytree(tiny_video_folder, folder)
    make_few_steps(folder / "few_steps", tiny_video_folder, seed=5)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_default_adapter": "few_steps"}))
    return folder


@pytest.fixture(scope="module")
def fast_engine(fast_folder, tiny_video_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    style = make_adapter(folder / "style", tiny_video_folder, seed=6)
    other = make_few_steps(folder / "other", tiny_video_folder, seed=7)
    adapters = [NamedAdapter(name=path.name, path=str(path)) for path in (style, other)]
    return make_engine(fast_folder, adapters=adapters)


@pytest.fixture
def run(make_queue, fast_engine):
    queue = make_queue(fast_engine)

    def run(request):
        """The pixels of a request's first file, and its settings."""
        event = queue.submit(request, "ann").wait(120)
        assert isinstance(event, Done), event
        path = event.result.files[0]
        return np.asarray(Image.open(path).convert("RGB")), read_image_metadata(path).settings

    return run


def make_request(**settings):
    return TextToImageRequest(prompt="cat", seed=3, **{"adapters": {}, **settings})


def test_requests_switch_between_the_adapter_and_the_model_alone_without_a_trace(run, fast_folder):
    pipe = make_engine(fast_folder).text_to_image

    def draw(**settings):
        generator = torch.Generator().manual_seed(3)
        return np.asarray(pipe("cat", generator=generator, **settings).images[0])

    fast, alone = draw(), draw(num_inference_steps=2, guidance_scale=3.0)
    assert not np.array_equal(fast, alone)
    for _ in range(2):
        pixels, settings = run(make_request())
        assert np.array_equal(pixels, fast)
        assert (settings["num_inference_steps"], settings["guidance_scale"]) == (3, 1.0)
        assert settings["default_adapter"] == "few_steps"
        pixels, settings = run(make_request(slow=True))
        assert np.array_equal(pixels, alone)
        assert (settings["num_inference_steps"], settings["guidance_scale"]) == (2, 3.0)
        assert "default_adapter" not in settings


@pytest.mark.parametrize(
    "settings",
    [
        {"slow": True},
        {"num_inference_steps": 3},
        {"guidance_scale": 1.0},
        {"guidance_mode": "apg"},
        {"scheduler": "EulerDiscrete"},
        {"negative_prompt": "dog"},
        {"adapters": {"other": 1.0}},
    ],
    ids=str,
)
def test_guidance_steps_and_schedulers_mean_the_model_alone(run, fast_engine, settings):
    request = make_request(**settings).with_defaults(fast_engine.capabilities)
    assert request.uses_default_adapter is False
    result = run(make_request(**settings))[1]
    assert "default_adapter" not in result
    assert result["num_inference_steps"] == request.num_inference_steps
    assert result["guidance_scale"] == request.guidance_scale


def test_adapters_of_the_server_run_in_the_models_own_steps_and_in_few_steps_on_request(run):
    plain, style, other = (run(make_request(adapters=each)) for each in ({}, {"style": 1.0}, {"other": 1.0}))
    assert "default_adapter" not in style[1]
    assert (style[1]["num_inference_steps"], style[1]["guidance_scale"]) == (2, 3.0)
    assert "default_adapter" not in other[1]
    assert (other[1]["num_inference_steps"], other[1]["guidance_scale"]) == (3, 1.0)
    few = run(make_request(adapters={"style": 1.0}, slow=False))
    assert few[1]["default_adapter"] == "few_steps"
    assert few[1]["num_inference_steps"] == 3
    assert not np.array_equal(few[0], plain[0])
    assert not np.array_equal(few[0], style[0])
    assert np.array_equal(run(make_request())[0], plain[0])
    assert np.array_equal(run(make_request(adapters={"style": 0.0}))[0], plain[0])


def test_few_steps_that_cannot_be_are_refused_before_the_queue(fast_engine, tiny_video_folder):
    def get_message_id(engine=fast_engine, **settings):
        with pytest.raises(DianjingError) as error:
            make_request(slow=False, **settings).with_defaults(engine.capabilities)
        return error.value.message_id

    assert get_message_id(num_inference_steps=3) == "few_steps_with_settings"
    assert get_message_id(adapters={"other": 1.0}) == "few_steps_impossible"
    assert get_message_id(make_engine(tiny_video_folder)) == "few_steps_impossible"


def test_an_edit_is_made_in_few_steps_on_request(run):
    edit = ImageEdit(image=Image.new("RGB", (32, 32)), strength=1.0)
    settings = run(EditRequest(prompt="cat", edit=edit, seed=0, adapters={}, slow=False))[1]
    assert (settings["num_inference_steps"], settings["default_adapter"]) == (3, "few_steps")


def test_defaults_that_are_filled_in_twice_stay(fast_engine):
    request = make_request().with_defaults(fast_engine.capabilities)
    again = request.with_defaults(fast_engine.capabilities)
    assert (again.num_inference_steps, again.uses_default_adapter) == (3, True)
    work = again.list_work(fast_engine.capabilities)[0]
    assert (work.num_steps, work.num_passes) == (3, 1)


def test_edits_and_videos_are_made_by_the_model_alone(fast_engine):
    image = Image.new("RGB", (32, 32))
    edit = EditRequest(prompt="cat", edit=ImageEdit(image=image, strength=0.5), seed=0, adapters={})
    video = TextToVideoRequest(prompt="cat", seed=0, adapters={})
    for request in (edit, video):
        assert request.with_defaults(fast_engine.capabilities).num_inference_steps == 2


def test_a_conversation_names_the_adapter_and_its_steps(run, fast_engine):
    conversation = fast_engine.create_conversation(seed=3)
    settings = run(ConversationRequest(conversation=conversation, text="a cat on the grass", adapters={}))[1]
    assert (settings["num_inference_steps"], settings["default_adapter"]) == (3, "few_steps")
    slow = fast_engine.create_conversation(seed=3, slow=True)
    settings = run(ConversationRequest(conversation=slow, text="a cat on the grass", adapters={}))[1]
    assert (settings["num_inference_steps"], settings["guidance_scale"]) == (2, 3.0)
    assert "default_adapter" not in settings


def test_the_forecast_of_a_turn_counts_the_steps_that_it_takes(fast_engine):
    conversation = fast_engine.create_conversation(seed=3)
    for adapters, expected in (({}, (3, 1)), ({"style": 1.0}, (2, 2)), ({"other": 1.0}, (3, 1))):
        request = ConversationRequest(conversation=conversation, text="a cat", adapters=adapters)
        work = request.with_defaults(fast_engine.capabilities).list_work(fast_engine.capabilities)[0]
        assert (work.num_steps, work.num_passes) == expected


@pytest.mark.parametrize("slow", [True, False, None])
def test_http_bodies_of_images_edits_and_variations_carry_the_choice(slow):
    limits, edit = ServerLimits(), ImageEdit(image=Image.new("RGB", (32, 32)), strength=0.5)
    assert ImageGenerationSchema(prompt="cat", slow=slow).to_request(limits).slow is slow
    assert ImageEditSchema(prompt="cat", slow=slow).make_request(edit, limits).slow is slow
    assert ImageVariationSchema(prompt="cat", slow=slow).make_request(edit, limits).slow is slow
