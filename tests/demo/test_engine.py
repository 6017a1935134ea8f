"""The inference engine: every kind of request over one set of weights, with progress, cancellation and metadata."""

import numpy as np
import pytest
import torch
from PIL import Image

from dianjing import Point, Region
from dianjing.demo.engine import InferenceEngine
from dianjing.demo.jobs import Cancelled, Done, Progress
from dianjing.demo.mask_service import MaskService
from dianjing.demo.requests import ConversationRequest, ImageToVideoRequest, TextToImageRequest, TextToVideoRequest
from dianjing.pipelines.base import PipelineBase
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import get_input_image_metadata, read_image_metadata
from dianjing.pipelines.media.video import read_video_metadata
from dianjing.pipelines.media.video_reading import read_video
from dianjing.train.evaluation.transparency import sample_scenes

REGION = Region(motion="jump", points=[Point(x=16, y=16)])


def make_image(side_px=32):
    """A red square on white, off the center."""
    image = Image.new("RGB", (side_px, side_px), "white")
    image.paste((200, 30, 30), (8, 8, 22, 22))
    return image


def read_image(path):
    with Image.open(path) as image:
        return np.asarray(image)


def read_frames(result):
    """The frames of the WebP: libx264 may encode equal frames of this size differently."""
    return read_video(next(path for path in result.files if path.suffix == ".webp")).frames


def run_to_end(queue, request):
    """All events of a job until its end."""
    events = list(queue.stream_events(queue.submit(request, "ann")))
    assert isinstance(events[-1], Done), events[-1]
    return events


def test_all_pipelines_share_their_weights(tiny_engine):
    pipelines = (tiny_engine.text_to_image, tiny_engine.text_to_video, tiny_engine.image_to_video)
    for name, component in tiny_engine.text_to_video.components.items():
        assert all(getattr(pipe, name) is component for pipe in pipelines)
    assert tiny_engine.create_conversation().pipe is tiny_engine.text_to_image


def test_weights_are_loaded_and_checked_once_for_all_pipelines(tiny_video_folder, monkeypatch):
    folders = []
    load = PipelineBase.from_pretrained.__func__
    monkeypatch.setattr(
        PipelineBase,
        "from_pretrained",
        classmethod(lambda cls, folder, **o: folders.append(folder) or load(cls, folder, **o)),
    )
    InferenceEngine.from_pretrained(str(tiny_video_folder))
    assert folders == [str(tiny_video_folder)]


def test_images_equal_those_of_the_pipeline_for_their_seeds(make_queue, tiny_engine):
    request = TextToImageRequest(prompt="cat", seed=5, num_images=2, num_inference_steps=3)
    result = run_to_end(make_queue(tiny_engine), request)[-1].result
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    expected = tiny_engine.text_to_image("cat", num_images_per_prompt=2, num_inference_steps=3, generator=generators)
    for path, image, seed in zip(result.files, expected.images, (5, 6), strict=True):
        with Image.open(path) as written:
            assert np.array_equal(np.asarray(written), np.asarray(image))
            assert "AIGC" in written.text[XMP_KEY]
        metadata = read_image_metadata(path)
        assert (metadata.prompt, metadata.seed, metadata.settings["num_inference_steps"]) == ("cat", seed, 3)


def test_batches_of_many_images_count_as_one_run(make_queue, tiny_engine):
    request = TextToImageRequest(prompt="cat", num_images=9, num_inference_steps=2, seed=0)
    events = run_to_end(make_queue(tiny_engine), request)
    assert len(events[-1].result.files) == 9
    assert {event.total for event in events if isinstance(event, Progress)} == {4}


def test_a_seed_that_is_left_out_is_random_and_in_the_metadata(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    seeds = {run_to_end(queue, TextToImageRequest(prompt="cat"))[-1].result.metadata[0].seed for _ in range(3)}
    assert len(seeds) == 3


def test_an_animation_is_written_in_three_formats_with_its_regions(make_queue, tiny_engine):
    regions = [REGION, Region(motion="turn", mask=np.asarray(make_image().convert("L")) < 128, strength=0.8)]
    request = ImageToVideoRequest(image=make_image(), regions=regions, num_frames=3, fps=6, seed=1)
    result = run_to_end(make_queue(tiny_engine), request)[-1].result
    assert [path.suffix for path in result.files] == [".mp4", ".webp", ".gif"]
    for path in result.files:
        assert read_video(path).frames.shape == (3, 32, 32, 3)
        metadata, label = read_video_metadata(path)
        assert [region["motion"] for region in metadata.settings["regions"]] == ["jump", "turn"]
        assert metadata.settings["regions"][0]["points"] == [{"x": 16, "y": 16, "positive": True}]
        assert label["Label"] == "1"
    assert result.crop.message_id == "crop_none"


def test_progress_of_a_long_video_names_the_window(make_queue, tiny_engine):
    request = TextToVideoRequest(
        prompt="cat", num_frames=10, long_video="autoregressive", num_inference_steps=2, seed=0
    )
    progress = []

    class WatchedEngine:
        capabilities, free_memory = tiny_engine.capabilities, tiny_engine.free_memory
        predict_s = staticmethod(tiny_engine.predict_s)

        def run(self, job, results, *, on_progress):
            def listen(event):
                progress.append((event.window, event.step))
                on_progress(event)

            return tiny_engine.run(job, results, on_progress=listen)

    result = run_to_end(make_queue(WatchedEngine()), request)[-1].result
    # an image, and windows of 4 frames, each from the last frame of the one before: 1, 4, 7, 10
    assert progress == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6), (4, 7), (4, 8)]
    assert result.metadata[0].settings["num_frames"] == 10


def test_a_result_is_generated_again_from_its_metadata(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
    video_names = (*names, "num_frames", "fps")
    first = run_to_end(queue, TextToImageRequest(prompt="cat", num_inference_steps=3, negative_prompt="dog"))[-1].result
    metadata = read_image_metadata(first.files[0])
    settings = {name: metadata.settings[name] for name in names}
    again = run_to_end(queue, TextToImageRequest(prompt=metadata.prompt, seed=metadata.seed, **settings))[-1].result
    assert np.array_equal(read_image(first.files[0]), read_image(again.files[0]))

    request = TextToVideoRequest(
        prompt="cat", num_frames=7, num_inference_steps=3, continuation_steps=1, guidance_scale=2
    )
    first = run_to_end(queue, request)[-1].result
    metadata, _ = read_video_metadata(first.files[0])
    more = ("long_video", "continuation_steps", "continuation_guidance_scale")
    settings = {name: metadata.settings[name] for name in (*video_names, *more)}
    assert (settings["num_inference_steps"], settings["continuation_steps"]) == (3, 1)
    again = run_to_end(queue, TextToVideoRequest(prompt=metadata.prompt, seed=metadata.seed, **settings))[-1].result
    assert np.array_equal(read_frames(first), read_frames(again))

    image = make_image(48)
    first = run_to_end(queue, ImageToVideoRequest(image=image, regions=[REGION], num_frames=5))[-1].result
    metadata, _ = read_video_metadata(first.files[0])
    assert metadata.settings["image"]["pixels_sha256"] == get_input_image_metadata(image)["pixels_sha256"]
    regions = [
        Region(motion=each["motion"], strength=each["strength"], points=[Point(**point) for point in each["points"]])
        for each in metadata.settings["regions"]
    ]
    settings = {name: metadata.settings[name] for name in video_names}
    request = ImageToVideoRequest(image=image, regions=regions, prompt=metadata.prompt, seed=metadata.seed, **settings)
    again = run_to_end(queue, request)[-1].result
    assert np.array_equal(read_frames(first), read_frames(again))


def test_an_image_of_a_conversation_is_generated_again_from_its_metadata(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    conversation = tiny_engine.create_conversation(seed=3, num_inference_steps=2)
    for text in ("a cat on the grass", "add a red balloon", "undo", "on the beach"):
        result = run_to_end(queue, ConversationRequest(conversation=conversation, text=text))[-1].result
    metadata = read_image_metadata(result.files[0])
    settings = metadata.settings
    again = tiny_engine.create_conversation(
        seed=metadata.seed,
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
    )
    for text in settings["instructions"]:
        turn = again.send(text)
    assert np.isfinite(turn.latents.numpy()).all()
    assert np.array_equal(read_image(result.files[0]), np.asarray(turn.image))


def test_a_duration_becomes_a_number_of_frames(make_queue, tiny_engine):
    request = TextToVideoRequest(prompt="cat", duration_s=1.5, fps=4, num_inference_steps=1)
    result = run_to_end(make_queue(tiny_engine), request)[-1].result
    assert result.metadata[0].settings["num_frames"] == 6


def test_a_conversation_continues_from_turn_to_turn(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    conversation = tiny_engine.create_conversation(seed=3, num_inference_steps=1)
    events = run_to_end(queue, ConversationRequest(conversation=conversation, text="a cat on the grass"))
    request = ConversationRequest(conversation=conversation, text="add a red balloon")
    result = run_to_end(queue, request)[-1].result
    assert any(isinstance(event, Progress) and event.step > 0 for event in events)
    assert [turn.text for turn in conversation.turns] == ["a cat on the grass", "add a red balloon"]
    assert result.turn is conversation.turns[-1]
    assert read_image_metadata(result.files[0]).prompt == result.turn.prompt


@pytest.mark.parametrize("kind", ["image", "video", "animation", "conversation"])
def test_every_kind_of_run_stops_within_a_step(make_queue, tiny_engine, kind):
    requests = {
        "image": TextToImageRequest(prompt="cat", num_inference_steps=50),
        "video": TextToVideoRequest(prompt="cat", num_inference_steps=50),
        "animation": ImageToVideoRequest(image=make_image(), regions=[REGION], num_inference_steps=50),
        "conversation": ConversationRequest(
            conversation=tiny_engine.create_conversation(num_inference_steps=50), text="a cat"
        ),
    }
    queue = make_queue(tiny_engine)
    job = queue.submit(requests[kind], "ann")
    for event in queue.stream_events(job):
        if isinstance(event, Progress) and event.step >= 2:
            queue.cancel(job.id, "ann")
    assert isinstance(event, Cancelled)
    assert event.preview is not None
    assert isinstance(run_to_end(queue, TextToImageRequest(prompt="cat"))[-1], Done)  # the next run is not stopped too


def test_previews_of_a_turn_show_the_objects_that_stay(make_queue, image_engine):
    conversation = image_engine.create_conversation(seed=3)
    queue = make_queue(image_engine)
    run_to_end(queue, ConversationRequest(conversation=conversation, text="a cat at the bottom right"))
    before = np.asarray(conversation.turns[-1].image, int)
    request = ConversationRequest(conversation=conversation, text="add a dog at the top left")
    events = run_to_end(queue, request)
    previews = [event.preview for event in events if isinstance(event, Progress) and event.preview is not None]
    side_px = before.shape[0]
    unchanged = (slice(-side_px // 4, None), slice(-side_px // 4, None))
    assert previews
    for preview in previews:
        assert preview.size == conversation.turns[-1].image.size
        assert np.abs(np.asarray(preview, int)[unchanged] - before[unchanged]).mean() < 3


def test_a_stopped_turn_leaves_the_conversation_unchanged(make_queue, tiny_engine):
    conversation = tiny_engine.create_conversation(num_inference_steps=50)
    queue = make_queue(tiny_engine)
    job = queue.submit(ConversationRequest(conversation=conversation, text="a cat"), "ann")
    events = queue.stream_events(job)
    while not (isinstance(event := next(events), Progress) and event.step):
        pass
    events.close()
    assert isinstance(job.wait(30), Cancelled)
    assert conversation.turns == ()


def test_a_message_that_is_not_understood_fails_with_the_reason(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    request = ConversationRequest(conversation=tiny_engine.create_conversation(), text="undo")
    assert queue.submit(request, "ann").wait(30).error.message_id == "no_previous_image"


def test_a_model_without_motion_blocks_refuses_videos_and_animations(make_queue, image_engine):
    queue = make_queue(image_engine)
    for request in (TextToVideoRequest(prompt="cat"), ImageToVideoRequest(image=make_image(), regions=[REGION])):
        with pytest.raises(ValueError, match="generates images only"):
            queue.submit(request, "ann")
    assert isinstance(run_to_end(queue, TextToImageRequest(prompt="cat"))[-1], Done)


def test_more_regions_than_the_model_was_trained_for_are_refused(make_queue, tiny_engine):
    with pytest.raises(ValueError, match="3 regions are given; this model takes 1 to 2"):
        make_queue(tiny_engine).submit(ImageToVideoRequest(image=make_image(), regions=[REGION] * 3), "ann")


def test_a_mask_does_not_wait_for_a_generation(make_queue, tiny_engine):
    queue = make_queue(tiny_engine)
    job = queue.submit(TextToImageRequest(prompt="cat", num_inference_steps=400), "ann")
    next(event for event in job.stream_events() if isinstance(event, Progress))
    mask = tiny_engine.predict_mask(make_image(96), [(12, 12)], [1])
    assert job.state == "running"
    queue.cancel(job.id, "ann")
    assert mask[8:22, 8:22].mean() > 0.9
    assert mask.mean() < 0.1


def test_an_unknown_model_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="no model 'stiker'"):
        InferenceEngine.from_pretrained("stiker")


def test_masks_of_clicks_are_those_of_the_pipeline_that_animates_them():
    engine = InferenceEngine.from_pretrained("sticker")
    sample = next(each for each in sample_scenes(40, seed=77, size_px=128) if len(each.masks) == 2)
    row, column = (int(each.mean()) for each in np.nonzero(sample.masks[0]))
    mask = engine.predict_mask(Image.fromarray(sample.image), [(column, row)], [1])
    region = Region(motion="jump", points=[Point(x=column, y=row)])
    np.testing.assert_array_equal(mask, engine.image_to_video.predict_masks(sample.image, [region])[0])
    grabcut = MaskService().predict_mask(Image.fromarray(sample.image), [(column, row)], [1])
    assert not np.array_equal(mask, grabcut)
