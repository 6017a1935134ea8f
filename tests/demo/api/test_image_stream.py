"""Images as server-sent events: previews arrive while the image is generated, and errors are events as well."""

import base64
import io
import json
import socket
import threading

import openai
import pytest
from PIL import Image

from dianjing.demo.api import image_stream
from dianjing.demo.jobs import Cancelled, Progress
from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image_file import ImageFormat

BODY = {"prompt": "cat", "stream": True, "num_inference_steps": 4}


@pytest.fixture
def previewing(counting):
    """The counting engine, which reports a preview after every step and waits for a permit before the next one."""
    counting.permits = threading.Semaphore(0)
    run = counting.run

    def run_with_previews(job, results, *, on_progress):
        total = job.request.num_inference_steps

        def report(progress):
            preview = Image.new("RGB", (8, 8), (60 * progress.step % 256, 0, 0)) if progress.step else None
            on_progress(Progress(step=progress.step, total=total, preview=preview))
            if 0 < progress.step < total:
                counting.permits.acquire(timeout=120)

        return run(job, results, on_progress=report)

    counting.run = run_with_previews
    yield counting
    counting.permits.release(1000)


def read_events(response):
    """The events of a response that has been read."""
    blocks = [block.splitlines() for block in response.text.strip().split("\n\n") if not block.startswith(":")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


def decode(event):
    return Image.open(io.BytesIO(base64.b64decode(event["b64_json"])))


def release_after_each_preview(client, engine, monkeypatch):
    """Let the engine go on as soon as a preview is encoded, so that none is skipped."""
    encode = client.job_queue.results.encode_preview

    def encode_and_release(*arguments, **options):
        content = encode(*arguments, **options)
        engine.permits.release()
        return content

    monkeypatch.setattr(client.job_queue.results, "encode_preview", encode_and_release)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_previews_come_in_order_in_the_format_and_size_of_the_image(
    make_client, previewing, monkeypatch, image_format: ImageFormat
):
    client = make_client(previewing)
    release_after_each_preview(client, previewing, monkeypatch)
    response = client.post(
        "/v1/images/generations",
        json={**BODY, "partial_images": 3, "size": "64x48", "output_format": image_format, "quality": "high"},
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *partial, (kind, last) = read_events(response)
    assert [kind for kind, _ in partial] == ["image_generation.partial_image"] * 3
    assert [event["partial_image_index"] for _, event in partial] == [0, 1, 2]
    for step, (kind, event) in enumerate(partial, start=1):
        image = decode(event)
        assert (image.format, image.size) == (image_format.upper(), (64, 48))
        assert abs(image.convert("RGB").getpixel((32, 24))[0] - 60 * step) <= 3
        packet = image.text[XMP_KEY] if image_format == "png" else image.info["xmp"].decode()
        assert "TC260:AIGC" in packet
        assert {name: event[name] for name in ("type", "size", "output_format", "background", "quality")} == {
            "type": kind,
            "size": "64x48",
            "output_format": image_format,
            "background": "opaque",
            "quality": "high",
        }
    assert (kind, last["type"]) == ("image_generation.partial_image", "image_generation.completed")


@pytest.mark.parametrize(("count", "steps"), [(0, []), (None, []), (1, [2]), (2, [2, 3])])
def test_few_previews_are_spread_over_the_steps(make_client, previewing, monkeypatch, count, steps):
    client = make_client(previewing)
    preview_steps = []
    encode = client.job_queue.results.encode_preview
    monkeypatch.setattr(
        client.job_queue.results,
        "encode_preview",
        lambda image, **options: preview_steps.append(image.getpixel((0, 0))[0] // 60) or encode(image, **options),
    )
    iterate = image_stream.iterate_events

    async def release_after_each_step(job, request):
        """Let the engine go on once the stream has taken an event, so that it sees every step."""
        step = 0
        async for event in iterate(job, request):
            yield event
            if isinstance(event, Progress) and event.step > step:
                step = event.step
                previewing.permits.release()

    monkeypatch.setattr(image_stream, "iterate_events", release_after_each_step)
    response = client.post("/v1/images/generations", json={**BODY, "partial_images": count})
    assert preview_steps == steps
    assert [kind for kind, _ in read_events(response)] == [
        *["image_generation.partial_image"] * len(steps),
        "image_generation.completed",
    ]


def test_a_job_of_a_stream_leaves_nothing_behind(make_client, counting):
    client = make_client(counting)
    assert client.post("/v1/images/generations", json=BODY).status_code == 200
    assert client.job_queue._jobs == {}
    assert list(client.job_queue.results.root.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "服务器处理这个请求时内存不足"),
        (KeyError("/srv/secret/model.bin"), "服务器处理这个请求时出错"),
        (DianjingError("motion_needs_frames", num_frames=1), "num_frames 为 1"),
    ],
)
def test_a_run_that_fails_is_an_error_event_that_the_openai_package_raises(make_client, counting, error, message):
    client = make_client(counting, headers={"Accept-Language": "zh"})
    counting.error = error
    api = openai.OpenAI(api_key="mine", base_url="http://testserver/v1", http_client=client, max_retries=0)
    with pytest.raises(openai.APIError, match=message) as caught:
        list(api.images.generate(prompt="cat", stream=True, partial_images=1))
    assert "secret" not in str(caught.value.body)


def test_a_preview_arrives_before_the_image_is_finished(make_live, previewing):
    address, _, jobs = make_live(previewing)
    with socket.create_connection(address, timeout=120) as client, client.makefile("rb") as lines:
        content = json.dumps({**BODY, "partial_images": 3}).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: here\r\nContent-Length: {len(content)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + content)
        assert lines.readline().startswith(b"HTTP/1.1 200"), lines.read()
        while b"event: image_generation.partial_image" not in lines.readline():
            pass
        assert not jobs[0].is_finished
        for _ in range(3):
            previewing.permits.release()
        assert b"event: image_generation.completed" in lines.read()


def test_a_client_that_leaves_a_stream_ends_its_job(make_live, previewing):
    address, _, jobs = make_live(previewing)
    with socket.create_connection(address, timeout=120) as client, client.makefile("rb") as lines:
        content = json.dumps({**BODY, "partial_images": 3, "num_inference_steps": 20}).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: here\r\nContent-Length: {len(content)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + content)
        previewing.permits.release()
        assert lines.readline().startswith(b"HTTP/1.1 200"), lines.read()
    assert jobs[0].cancel_requested.wait(120)
    previewing.permits.release(1000)
    assert isinstance(jobs[0].wait(120), Cancelled)
