"""Albums of animated stickers from images of the page: their run in the inference engine."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from dianjing.demo.album_request import AlbumImage, StickerAlbumRequest
from dianjing.demo.jobs import Job, JobResult, Progress
from dianjing.demo.progress import ProgressListener
from dianjing.demo.results import ResultStore
from dianjing.errors import DianjingError
from dianjing.pipelines.media.aigc_label import make_aigc_label, serialize_label
from dianjing.pipelines.media.sticker_album import ALBUM_COUNTS, AlbumSticker, choose_album_count, write_album
from dianjing.pipelines.sticker_animation import animate_sticker, choose_motions, fit_sticker
from dianjing.pipelines.transparency.prompt_check import check_transparent_prompt

if TYPE_CHECKING:
    from dianjing.demo.engine import InferenceEngine

ARCHIVE_NAME = "dianjing-stickers.zip"


def select_album_images(engine: "InferenceEngine", images: Sequence[AlbumImage]) -> list[AlbumImage]:
    """Select the images that show an object, as many as the largest album has.

    Raises: DianjingError if there are none.
    """
    selected = []
    for image in images:
        try:
            check_transparent_prompt(engine.text_to_image.prompt_normalizer, image.prompt)
        except DianjingError:
            continue
        selected.append(image)
    if not selected:
        raise DianjingError("album_without_objects")
    return selected[: ALBUM_COUNTS[-1]]


def make_sticker_album(
    engine: "InferenceEngine", job: Job, results: ResultStore, on_progress: ProgressListener
) -> JobResult:
    """Cut out the images of a request, animate them and write the album as one ZIP file."""
    request, pipe = job.request, engine.image_to_video
    assert isinstance(request, StickerAlbumRequest)
    assert pipe is not None
    motions = choose_motions(pipe.motion_vocabulary)
    count, stickers, cut_outs = choose_album_count(len(request.images)), [], {}
    for index in range(count):
        on_progress(Progress(step=index, total=count))
        image_index = index % len(request.images)
        image = request.images[image_index]
        if image_index not in cut_outs:
            cut_outs[image_index] = fit_sticker(_cut_out(engine, image))
        motion = motions[index // len(request.images) % len(motions)]
        frames = animate_sticker(pipe, cut_outs[image_index], motion)
        meaning = find_meaning(engine, image.prompt)
        stickers.append(AlbumSticker(frames=frames, fps=pipe.config.default_fps, meaning=meaning))
    label = make_aigc_label(stickers[0].frames.tobytes(), producer=results.labelling.producer)
    write = partial(write_album, stickers, label=serialize_label(label))
    archive = results.save_archive(job.id, ARCHIVE_NAME.removeprefix("dianjing-"), write)
    assert request.seed is not None
    metadata = engine.make_metadata(request.images[0].prompt, seed=request.seed, settings={"stickers": count})
    return JobResult(files=(archive,), metadata=(metadata,))


def _cut_out(engine: "InferenceEngine", image: AlbumImage) -> Image.Image:
    with Image.open(image.path) as file:
        if file.mode == "RGBA":
            return file.copy()
        rgb = file.convert("RGB")
    return engine.text_to_image.remove_background(rgb, image.prompt)


def find_meaning(engine: "InferenceEngine", prompt: str) -> str:
    """Find the meaning of a sticker: the Chinese name of the first object of its prompt, or the prompt."""
    normalizer: Any = engine.text_to_image.prompt_normalizer
    if normalizer is None:
        return prompt
    known = normalizer.concept_vocabulary.find_object(normalizer.read_scene(prompt).objects[0].name)
    return prompt if known is None else known.names_zh[0]
