"""Runs of a session: saved once, with or without a page that follows them."""

import zipfile
from types import SimpleNamespace

import pytest
from PIL import Image

from dianjing.demo.jobs import Cancelled, Done, Job, JobResult
from dianjing.demo.page.examples import make_example_prompts
from dianjing.demo.page.history_panel import make_archive
from dianjing.demo.page.region_import import parse_regions
from dianjing.demo.page.runs import SessionRun
from dianjing.demo.page.sessions import SessionStore
from dianjing.demo.progress import make_sheet
from dianjing.demo.requests import TextToImageRequest
from dianjing.pipelines.media.metadata import GenerationMetadata

METADATA = GenerationMetadata(prompt="a cat", seed=3, settings={"width": 64}, model="sticker", version="0")


def test_a_run_is_saved_once_although_nobody_follows_it():
    job, events = Job(TextToImageRequest(prompt="a cat"), owner="ann"), []
    run = SessionRun(job, lambda _, event: events.append(event), error_language="en")
    done = Done(result=JobResult(files=(), metadata=()))
    job.publish(done)
    run.save()
    assert events == [done]


def test_a_result_that_cannot_be_saved_is_an_error_of_its_run_alone():
    job = Job(TextToImageRequest(prompt="a cat"), owner="ann")

    def fail(job, event):
        raise OSError(28, "no space left on device")

    run = SessionRun(job, fail, error_language="en")
    job.publish(Cancelled())
    assert run.error is not None
    assert run.error.message_id == "server_disk_full"


def test_an_archive_holds_every_file_of_a_history_and_no_deleted_one(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(b"image")
    _, session = SessionStore().get_session(None, "load")
    session.folder.mkdir(parents=True, exist_ok=True)
    items = [session.add_item(session.images, [file], METADATA) for _ in range(2)]
    session.remove_item(session.images, items[0])
    assert not items[0].files[0].exists()
    with zipfile.ZipFile(make_archive(session, session.images, name="image")) as archive:
        assert archive.namelist() == ["001-image.png"]
        assert archive.read("001-image.png") == b"image"
    session.clear(session.images)
    assert make_archive(session, session.images, name="image") is None


def test_a_model_without_a_list_of_words_has_no_examples():
    engine = SimpleNamespace(text_to_image=SimpleNamespace(concept_vocabulary=None), image_to_video=None)
    examples = make_example_prompts(engine, "zh")
    assert (examples.images, examples.videos, examples.messages) == ((), (), ())


@pytest.mark.parametrize("regions", ["x", [1], [{"motion": "a"}], [{"motion": "a", "strength": "b", "points": []}], 7])
def test_regions_of_a_foreign_file_are_none(regions):
    metadata = GenerationMetadata(prompt="", seed=1, settings={"regions": regions}, model="m", version="0")
    assert parse_regions(metadata) == []


def test_a_sheet_holds_images_side_by_side():
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue", "red", "green")]
    assert make_sheet(images).size == (16, 8)
