"""Every kind of request over one set of weights: watched, stopped, and written with its settings."""

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import Point, Region
from dianjing.demo.engine import InferenceEngine
from dianjing.demo.jobs import Cancelled, Done, Progress
from dianjing.demo.requests import ConversationRequest, ImageToVideoRequest, TextToImageRequest, TextToVideoRequest
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.video import read_video, read_video_metadata

REGION = Region(motion="jump", points=[Point(x=16, y=16)])


def picture(side_px=32):
    """A red square on white, off the middle."""
    image = Image.new("RGB", (side_px, side_px), "white")
    image.paste((200, 30, 30), (8, 8, 22, 22))
    return image


def finish(queue, request):
    """All that a job told until its end."""
    job = queue.submit(request, "ann")
    heard = list(queue.stream_events(job))
    assert isinstance(heard[-1], Done), heard[-1]
    return heard


def test_all_pipelines_share_their_weights(tiny_engine):
    ids = {
        id(pipe.transformer)
        for pipe in (
            tiny_engine.text_to_image,
            tiny_engine.text_to_video,
            tiny_engine.image_to_video,
            tiny_engine.conversation_pipeline,
        )
    }
    assert len(ids) == 1


def test_a_picture_is_the_pipelines_own_for_its_seed(make_queue, tiny_engine):
    request = TextToImageRequest(prompt="cat", seed=5, num_images=2, num_inference_steps=3)
    result = finish(make_queue(tiny_engine), request)[-1].result
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    own = tiny_engine.text_to_image("cat", num_images_per_prompt=2, num_inference_steps=3, generator=generators).images
    for path, image, seed in zip(result.files, own, (5, 6), strict=True):
        with Image.open(path) as written:
            assert np.array_equal(np.asarray(written), np.asarray(image))
            assert "AIGC" in written.text[XMP_KEY]
        record = read_image_metadata(path)
        assert (record.prompt, record.seed, record.settings["num_inference_steps"]) == ("cat", seed, 3)


def test_many_pictures_are_drawn_in_batches_and_counted_as_one_run(make_queue, tiny_engine):
    request = TextToImageRequest(prompt="cat", num_images=9, num_inference_steps=2, seed=0)
    heard = finish(make_queue(tiny_engine), request)
    assert len(heard[-1].result.files) == 9
    assert {event.total for event in heard if isinstance(event, Progress)} == {4}


def test_a_seed_left_out_is_drawn_by_lot_and_told(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    seeds = {finish(queue, TextToImageRequest(prompt="cat"))[-1].result.metadata[0].seed for _ in range(3)}
    assert len(seeds) == 3


def test_an_animation_moves_the_regions_and_keeps_their_settings(make_queue, tiny_engine):
    regions = [REGION, Region(motion="turn", mask=np.asarray(picture().convert("L")) < 128, strength=0.8)]
    request = ImageToVideoRequest(image=picture(), regions=regions, num_frames=3, fps=6, seed=1)
    result = finish(make_queue(tiny_engine), request)[-1].result
    assert [path.suffix for path in result.files] == [".mp4", ".webp", ".gif"]
    for path in result.files:
        film = read_video(path)
        assert film.frames.shape == (3, 32, 32, 3)
        record, label = read_video_metadata(path)
        assert [region["motion"] for region in record.settings["regions"]] == ["jump", "turn"]
        assert record.settings["regions"][0]["points"] == [{"x": 16, "y": 16, "positive": True}]
        assert label["Label"] == "1"
    assert result.crop_description == "32 x 32 px as given"


def test_a_film_in_windows_tells_which_one_is_drawn(make_queue, tiny_engine):
    request = TextToVideoRequest(
        prompt="cat", num_frames=10, long_video="autoregressive", num_inference_steps=2, seed=0
    )
    watched = []

    class Watched:
        capabilities, free_memory = tiny_engine.capabilities, tiny_engine.free_memory

        def run(self, job, results, *, on_progress):
            def told(progress):
                watched.append((progress.window, progress.step))
                on_progress(progress)

            return tiny_engine.run(job, results, on_progress=told)

    result = finish(make_queue(Watched()), request)[-1].result
    # a picture, and windows of 4 frames, each from the last frame before it: 1, 4, 7, 10
    assert watched == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6), (4, 7), (4, 8)]
    assert result.metadata[0].settings["num_frames"] == 10


def test_a_length_in_seconds_becomes_frames(make_queue, tiny_engine):
    request = TextToVideoRequest(prompt="cat", duration_s=1.5, fps=4, num_inference_steps=1)
    result = finish(make_queue(tiny_engine), request)[-1].result
    assert result.metadata[0].settings["num_frames"] == 6


def test_a_talk_goes_on_from_turn_to_turn(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    conversation = tiny_engine.create_conversation(seed=3, num_inference_steps=1)
    first = finish(queue, ConversationRequest(conversation=conversation, text="a cat on the grass"))
    second = finish(queue, ConversationRequest(conversation=conversation, text="add a red balloon"))[-1].result
    assert any(isinstance(event, Progress) and event.step > 0 for event in first)
    assert [turn.text for turn in conversation.turns] == ["a cat on the grass", "add a red balloon"]
    assert second.turn is conversation.turns[-1]
    assert read_image_metadata(second.files[0]).prompt == second.turn.prompt


@pytest.mark.parametrize("kind", ["image", "video", "animation", "conversation"])
def test_every_kind_of_run_stops_within_a_step(make_queue, tiny_engine, kind):
    requests = {
        "image": TextToImageRequest(prompt="cat", num_inference_steps=50),
        "video": TextToVideoRequest(prompt="cat", num_inference_steps=50),
        "animation": ImageToVideoRequest(image=picture(), regions=[REGION], num_inference_steps=50),
        "conversation": ConversationRequest(
            conversation=tiny_engine.create_conversation(num_inference_steps=50), text="a cat"
        ),
    }
    queue = make_queue(tiny_engine)
    job = queue.submit(requests[kind], "ann")
    steps = []
    for event in queue.stream_events(job):
        if isinstance(event, Progress) and event.step >= 2 and not job.is_cancel_requested:
            steps.append(event.step)
            queue.cancel(job.id, "ann")
    assert isinstance(event, Cancelled)
    assert event.preview is not None
    assert steps
    assert isinstance(finish(queue, TextToImageRequest(prompt="cat"))[-1], Done)  # the next run is not stopped too


def test_a_turn_is_seen_while_it_is_drawn_with_all_that_stays(make_queue, image_engine):
    conversation = image_engine.create_conversation(seed=3)
    queue = make_queue(image_engine)
    finish(queue, ConversationRequest(conversation=conversation, text="a cat at the bottom right"))
    before = np.asarray(conversation.turns[-1].image, int)
    heard = finish(queue, ConversationRequest(conversation=conversation, text="add a dog at the top left"))
    previews = [event.preview for event in heard if isinstance(event, Progress) and event.preview is not None]
    side = before.shape[0]
    stays = (slice(-side // 4, None), slice(-side // 4, None))
    assert previews
    for preview in previews:
        assert preview.size == conversation.turns[-1].image.size
        assert np.abs(np.asarray(preview, int)[stays] - before[stays]).mean() < 3


def test_a_stopped_turn_changes_nothing_of_the_talk(make_queue, tiny_engine):
    conversation = tiny_engine.create_conversation(num_inference_steps=50)
    queue = make_queue(tiny_engine)
    job = queue.submit(ConversationRequest(conversation=conversation, text="a cat"), "ann")
    following = queue.stream_events(job)
    while not (isinstance(event := next(following), Progress) and event.step):
        pass
    following.close()
    assert isinstance(job.wait(30), Cancelled)
    assert conversation.turns == ()


def test_what_cannot_be_understood_fails_with_the_reason(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    job = queue.submit(ConversationRequest(conversation=tiny_engine.create_conversation(), text="undo"), "ann")
    assert job.wait(30).error == "there is no picture before this one to go back to"


def test_a_picture_model_refuses_clicks_and_films(make_queue, image_engine):
    queue = make_queue(image_engine)
    for request in (TextToVideoRequest(prompt="cat"), ImageToVideoRequest(image=picture(), regions=[REGION])):
        with pytest.raises(ValueError, match="draws pictures only"):
            queue.submit(request, "ann")
    assert isinstance(finish(queue, TextToImageRequest(prompt="cat"))[-1], Done)


def test_more_regions_than_the_model_was_trained_for_are_refused(make_queue, tiny_engine):
    with pytest.raises(ValueError, match="3 regions are given; this model was trained for 1 to 2"):
        make_queue(tiny_engine).submit(ImageToVideoRequest(image=picture(), regions=[REGION] * 3), "ann")


def test_a_mask_does_not_wait_for_a_generation(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    job = queue.submit(TextToImageRequest(prompt="cat", num_inference_steps=400), "ann")
    while job.state == "queued":
        job.wait(0.01)
    mask = tiny_engine.predict_mask(picture(96), [(12, 12)], [1])
    assert job.state == "running"
    queue.cancel(job.id, "ann")
    assert mask[8:22, 8:22].mean() > 0.9
    assert mask.mean() < 0.1


def test_a_picture_is_looked_at_once_for_all_its_clicks():
    from dianjing.demo.engine import MaskService

    looks = []

    class Counting:
        def set_image(self, picture):
            looks.append(picture)

        def predict(self, points):
            return np.zeros((32, 32), bool)

    masks = MaskService(Counting)
    for _ in range(3):
        masks.predict_mask(picture(), [(3, 4), (5, 6)], [True, False])
    masks.predict_mask(picture(64), [(3, 4)], [1])
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("points", "labels", "reason"),
    [
        ([(3, 4)], [], "0 labels for 1 points"),
        ([(32, 4)], [1], "outside the picture of 32 x 32 px"),
        ([(float("nan"), 4)], [1], "no place"),
        ([(3, 4)], [0], "all clicks are negative"),
        ([(3, 4)] * 100_000, [1] * 100_000, "100,000 clicks; at most 1,000"),
        ([], [], "no click is given"),
    ],
)
def test_clicks_that_mean_nothing_are_refused(image_engine, points, labels, reason):
    with pytest.raises(ValueError, match=reason):
        image_engine.predict_mask(picture(), points, labels)


def test_an_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="no model 'stiker'"):
        InferenceEngine.from_pretrained("stiker")
