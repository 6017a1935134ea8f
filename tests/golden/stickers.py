"""Golden cases of the sticker world and of masks and files: pictures, clips, truth, matching, segmenting, metadata."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dianjing import Point
from dianjing.pipelines.media.aigc_label import make_image_label
from dianjing.pipelines.media.image import read_image_metadata, save_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import read_video_metadata, save_video
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.matching import SpriteMatcher
from tests.golden.results import Results, contents, text
from tests.golden.videos import PICTURE, from_words

CLICKS = (
    [Point(x=16, y=34)],
    [Point(x=48, y=36)],
    [Point(x=16, y=34), Point(x=48, y=36)],
    [Point(x=48, y=36), Point(x=16, y=34, positive=False)],
)


def _worlds() -> dict[str, StickerWorld]:
    mixed = CurriculumStage(
        scene_weights={"single": 0.4, "count": 0.2, "pair": 0.2, "trio": 0.2},
        grid_px=(16, 2),
        coloured_share=0.5,
        sized_share=0.5,
        canonical_share=0.3,
        min_amplitude=0.2,
    )
    return {"plain": StickerWorld(size_px=64), "mixed": StickerWorld(size_px=64, stages=[mixed], split="held_out")}


def world(folder: Path) -> Results:
    """Pictures and clips by (seed, position), with captions, masks, boxes and the truth of what moves."""
    results: Results = {}
    for name, made in _worlds().items():
        samples = [made.get_image_sample(5, position) for position in range(4)]
        results[f"{name} pictures"] = np.stack([sample.image for sample in samples])
        told = [[sample.text_zh, sample.text_en, contents(sample.boxes)] for sample in samples]
        results[f"{name} captions"] = text(told)
        results[f"{name} masks"] = np.concatenate([sample.masks for sample in samples])
        for kind, clip in {
            "clip": made.get_captioned_clip(6, 1, num_frames=4, fps=8.0),
            "click": made.get_controlled_clip(6, 2, num_frames=4, fps=8.0),
        }.items():
            results[f"{name} {kind} frames"] = clip.frames
            results[f"{name} {kind} masks"] = clip.masks
            results[f"{name} {kind} flow"] = clip.forward_flow
            moving = range(len(clip.scene.instances))
            results[f"{name} {kind} back"] = np.stack([clip.get_backward_flow(index, 9) for index in moving])
            results[f"{name} {kind} strengths"] = np.array(clip.strengths)
            results[f"{name} {kind} text"] = text(
                [clip.text_zh, clip.text_en, clip.motion_phrases, contents(clip.boxes)]
            )
    return results


def matching(folder: Path) -> Results:
    """What the matcher reads in pictures of the world, and how sure it is."""
    matcher, made = SpriteMatcher(size_px=64), _worlds()["mixed"]
    readings, explained = [], []
    for position in range(3):
        reading = matcher.detect(
            torch.from_numpy(made.get_image_sample(7, position).image.copy()).permute(2, 0, 1) / 255
        )
        found = [[seen.class_id, seen.colour, seen.x_px, seen.y_px, seen.size_px] for seen in reading.objects]
        readings.append([reading.background, found])
        explained += [seen.explained_share for seen in reading.objects]
    return {"readings": text(readings), "explained": np.array(explained)}


def masks(folder: Path) -> Results:
    """What fixed clicks mean, by GrabCut and by the network that comes with the embedded model."""
    picture = np.asarray(Image.open(PICTURE).convert("RGB"))
    crowded = StickerWorld(
        size_px=128, stages=[CurriculumStage(scene_weights={"pair": 0.5, "trio": 0.5}, grid_px=(2,))]
    )
    own = from_words().unet_segmenter
    assert own is not None
    results: Results = {}
    for name, segmenter in {"grabcut": GrabCutSegmenter(), "network": own}.items():
        segmenter.set_image(picture)
        results[name] = np.stack([segmenter.predict(points) for points in CLICKS])
        for position in range(6):  # busier pictures, clicked on off the center of each object
            sample = crowded.get_image_sample(9, position)
            segmenter.set_image(sample.image)
            clicks = [Point(x=x + 0.4 * width, y=y + 0.6 * height) for x, y, width, height in sample.boxes]
            results[f"{name} {position}"] = np.stack([segmenter.predict([click]) for click in clicks])
    return results


def files(folder: Path) -> Results:
    """A PNG's metadata read back, its label and its pixels; the metadata of moving pictures."""
    image = Image.open(PICTURE).convert("RGB")
    settings: dict[str, object] = {"steps": 20, "scale": 4.5, "name": "猫", "none": None, "list": [1, "b"]}
    prompt = '草地上的一只小猫 <&> "🐱"\nنص'
    record = GenerationMetadata(prompt=prompt, seed=2**64 - 1, settings=settings, model="m", version="1.2.3")
    label = make_image_label(
        image, GenerationMetadata(prompt="a", seed=1, settings={}, model="m", version="0"), producer="<某 & Co>"
    )
    path = folder / "picture.png"
    save_image(image, path, record, label=label)
    back = read_image_metadata(path)
    with Image.open(path) as saved:
        again = np.asarray(saved.convert("RGB"))
    kept_label = sorted(item for item in label.items() if item[0] != "ProduceID")  # which is a hash of our own names
    kept = [back.prompt, back.seed, back.settings, back.model, back.version]
    results: Results = {"read back": text(kept), "label": text(kept_label), "pixels": again}
    frames = np.stack([np.roll(again, 4 * shift, axis=1) for shift in range(3)])
    for ending in (".webp", ".gif", ".mp4"):
        (moving,) = save_video(frames, folder / f"moving{ending}", record, fps=8.0, producer="<某 & Co>")
        back, moving_label = read_video_metadata(moving)
        assert moving_label is not None
        kept = [back.prompt, back.seed, back.settings, back.model, back.version, moving_label["ContentProducer"]]
        results[f"read back {ending}"] = text(kept)
    return results
