"""The stock openai package against the app: what its documented calls send and expect."""

import base64
import io
import time
from dataclasses import replace

import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from dianjing import TextToImagePipeline
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.image_file import read_image_texts

UNFINISHED = ("queued", "in_progress")


@pytest.fixture
def connect(make_client, tiny_engine):
    """Connect the openai package to an app over the tiny model."""

    def make(*, language="en", api_key="mine", **options):
        client = make_client(tiny_engine, headers={"Accept-Language": language}, **options)
        api = openai.OpenAI(api_key=api_key, base_url="http://testserver/v1", http_client=client, max_retries=0)
        api.http = client
        return api

    return make


@pytest.fixture
def api(connect):
    return connect()


def open_image(encoded):
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.load()
    return image


def wait_for(api, video):
    while video.status in UNFINISHED:
        time.sleep(0.02)
        video = api.videos.retrieve(video.id)
    return video


@pytest.mark.parametrize(
    "options",
    [
        {"quality": "high"},
        {"quality": "hd", "style": "vivid"},
        {"background": "auto"},
        {"background": "opaque", "moderation": "low"},
        {"output_compression": 80},
        {"stream": False},
        {"partial_images": None, "n": None, "size": None, "quality": None, "response_format": None, "user": None},
        {"size": "auto", "user": "somebody", "extra_body": {"safety_identifier": "a", "complexity": None}},
    ],
)
def test_every_documented_option_of_images_is_accepted(api, options):
    images = api.images.generate(prompt="cat", **options)
    assert open_image(images.data[0].b64_json).format == "PNG"
    assert images.created > 1_700_000_000
    assert (images.background, images.output_format, images.size) == ("opaque", "png", "32x32")


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_a_transparent_background_is_an_alpha_channel(api, monkeypatch, image_format):
    def remove_background(self, image, prompt):
        assert prompt == "cat"
        return Image.merge("RGBA", (*image.convert("RGB").split(), Image.linear_gradient("L").resize(image.size)))

    monkeypatch.setattr(TextToImagePipeline, "remove_background", remove_background)
    images = api.images.generate(prompt="cat", background="transparent", output_format=image_format)
    image = open_image(images.data[0].b64_json)
    assert images.background == "transparent"
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (4, 251)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_each_format_holds_metadata_and_label(api, image_format, tmp_path):
    prompt = "草地上的一只小猫 🐱" * 150
    images = api.images.generate(prompt=prompt, output_format=image_format, n=2, extra_body={"negative_prompt": prompt})
    assert images.output_format == image_format
    for number, entry in enumerate(images.data):
        image = open_image(entry.b64_json)
        assert (image.format, image.size) == (image_format.upper(), (32, 32))
        assert "TC260:AIGC" in read_image_texts(image)[XMP_KEY]
        path = tmp_path / f"{number}.{image_format}"
        path.write_bytes(base64.b64decode(entry.b64_json))
        metadata = read_image_metadata(path)
        assert (metadata.prompt, metadata.settings["negative_prompt"]) == (prompt, prompt)
        assert metadata.seed == entry.seed


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_compression_makes_files_smaller(api, image_format):
    sizes = []
    for quality in (0, 50, 100):
        options = {"output_format": image_format, "output_compression": quality, "extra_body": {"seed": 3}}
        sizes.append(len(api.images.generate(prompt="cat", **options).data[0].b64_json))
    assert sizes == sorted(set(sizes))


def test_addresses_hold_the_same_image_and_need_no_key(connect):
    api = connect(keys=("right",), api_key="right")
    options = {"prompt": "cat", "n": 2, "extra_body": {"seed": 5}}
    inline = api.images.generate(**options)
    linked = api.images.generate(response_format="url", **options)
    for entry, other in zip(linked.data, inline.data, strict=True):
        assert entry.b64_json is None
        assert entry.url.startswith("http://testserver/")
        answer = api.http.get(entry.url)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.content == base64.b64decode(other.b64_json)
    assert len({part for entry in linked.data for part in entry.url.split("/") if len(part) >= 32}) == 1


def test_only_files_whose_address_is_in_a_response_can_be_opened(api):
    api.images.generate(prompt="cat", response_format="url")
    [secret] = [job for job in api.http.job_queue._jobs.values() if job.has_public_files]
    video = wait_for(api, api.videos.create(prompt="cat"))
    [file] = secret.last_event.result.files
    for path in (
        f"/results/{secret.id}/",
        f"/results/{secret.id}/..%2F{file.name}",
        f"/results/{secret.id}/%2Fetc%2Fpasswd",
        f"/results/{secret.id[:-1]}/{file.name}",
        f"/results/{video.id}/{api.http.job_queue.get(video.id, secret.owner).last_event.result.files[0].name}",
    ):
        answer = api.http.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"
    assert api.http.get(f"/results/{secret.id}/{file.name}").status_code == 200


def test_addresses_expire_with_the_results(connect):
    api = connect(result_ttl_s=0.01)
    [entry] = api.images.generate(prompt="cat", response_format="url").data
    time.sleep(0.1)
    assert api.http.get(entry.url).status_code == 404


def test_a_stream_ends_with_the_finished_images(api):
    events = list(api.images.generate(prompt="cat", stream=True, partial_images=3, n=2, extra_body={"seed": 5}))
    inline = api.images.generate(prompt="cat", n=2, extra_body={"seed": 5})
    partial, completed = events[:-2], events[-2:]
    assert all(isinstance(event, ImageGenPartialImageEvent) for event in partial)
    assert all(isinstance(event, ImageGenCompletedEvent) for event in completed)
    assert [event.b64_json for event in completed] == [entry.b64_json for entry in inline.data]
    assert {event.type for event in completed} == {"image_generation.completed"}
    assert (completed[0].size, completed[0].output_format, completed[0].background) == ("32x32", "png", "opaque")
    assert completed[0].usage.total_tokens == 0


def test_a_stream_that_is_refused_is_an_ordinary_error(api):
    with pytest.raises(openai.BadRequestError, match=r"n is 0; give a whole number"):
        api.images.generate(prompt="cat", stream=True, n=0)


def test_models_are_listed_and_retrieved(connect):
    api = connect(aliases=("gpt-image-1", "org/name"))
    models = list(api.models.list())
    served = api.http.job_queue.engine.capabilities.model
    assert [model.id for model in models] == [served, "gpt-image-1", "org/name"]
    for model in models:
        assert model.created > 1_700_000_000
        assert api.models.retrieve(model.id) == model
        assert api.images.generate(model=model.id, prompt="cat").data
    with pytest.raises(openai.NotFoundError, match="model is 'sora-2'; this server has"):
        api.models.retrieve("sora-2")
    with pytest.raises(openai.NotFoundError):
        api.images.generate(model="sora-2", prompt="cat")


def test_a_wrong_key_is_noticed_by_listing_models(connect):
    with pytest.raises(openai.AuthenticationError):
        connect(keys=("right",), api_key="wrong").models.list()
    assert connect(keys=("right",), api_key="right").models.list().data


def test_videos_are_listed_page_by_page(api):
    ids = [api.videos.create(prompt="cat", seconds="1", size="32x32").id for _ in range(5)]
    assert [video.id for video in api.videos.list(limit=2)] == ids[::-1]  # the package follows the pages
    assert [video.id for video in api.videos.list(order="asc").data] == ids
    page = api.videos.list(limit=2, after=ids[3])
    assert ([video.id for video in page.data], page.has_more, page.last_id) == ([ids[2], ids[1]], True, ids[1])
    api.videos.delete(ids[0])
    assert [video.id for video in api.videos.list()] == ids[:0:-1]
    with pytest.raises(openai.NotFoundError):
        api.videos.list(after=ids[0])
    with pytest.raises(openai.BadRequestError, match="limit is 0; give a whole number from 1 to 100"):
        api.videos.list(limit=0)


def test_videos_of_others_are_not_listed(connect, make_client, tiny_engine):
    api = connect(keys=("ann", "bob"), api_key="ann")
    api.videos.create(prompt="cat", seconds="1")
    assert api.with_options(api_key="ann").videos.list().data
    assert api.with_options(api_key="bob").videos.list().data == []


def test_a_video_says_when_it_was_made_and_expires(api):
    start = int(time.time())
    video = wait_for(api, api.videos.create(prompt="cat", seconds="1"))
    assert start <= video.created_at <= video.completed_at <= time.time()
    assert abs(video.expires_at - video.completed_at - 3600) <= 1
    assert (video.prompt, video.error, video.remixed_from_video_id) == ("cat", None, None)


def test_a_cancelled_video_has_a_status_that_clients_know(make_client, counting):
    counting.capabilities = replace(counting.capabilities, num_frames=4)
    client = make_client(counting, headers={"Accept-Language": "zh"})
    counting.gate.clear()
    video = client.post("/v1/videos", json={"prompt": "cat"}).json()
    [job] = client.job_queue._jobs.values()
    client.job_queue.cancel(job.id, job.owner)
    counting.gate.set()
    job.wait(120)
    video = client.get(f"/v1/videos/{video['id']}").json()
    assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")
    assert video["error"]["message"].startswith("任务已取消")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_not_offered_is_a_404_in_the_callers_language(connect, language):
    api = connect(language=language)
    for call in (
        lambda: api.embeddings.create(model="gpt", input="cat"),
        lambda: api.chat.completions.create(model="gpt", messages=[]),
        lambda: api.videos.remix("video_1", prompt="cat"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert ("没有" in caught.value.message) == (language == "zh")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"size": "0x64"}, "size"),
        ({"size": "64x65"}, "size"),
        ({"size": "huge"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"background": "transparent", "output_format": "jpeg"}, "output_format"),
        ({"output_compression": -1}, "output_compression"),
        ({"model": "other"}, "model"),
        ({"prompt": ""}, "prompt"),
        ({"extra_body": {"num_images": 2}}, "num_images"),
    ],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_error_names_the_field_that_the_client_sent(connect, options, param, language):
    with pytest.raises(openai.APIStatusError) as caught:
        connect(language=language).images.generate(**{"prompt": "cat", **options})
    error = caught.value.body
    assert error["param"] == param
    assert param in error["message"] or {"model": "模型", "prompt": "提示词"}[param] in error["message"]
    for internal in ("num_images_per_prompt", "width ", "height ", "duration_s"):
        assert internal not in error["message"]
