"""Clicks on images of the bundled model, and on others."""

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from dianjing import ImageToVideoPipeline
from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.segmentation.own_images import OwnImageSegmenter, make_default_segmenter
from dianjing.pipelines.video.refinement import can_show_image
from dianjing.train.evaluation.transparency import sample_scenes
from dianjing.train.stickers import CurriculumStage, StickerWorld

SIZE_PX = 128


@pytest.fixture(scope="module")
def pipe():
    return ImageToVideoPipeline.from_pretrained("sticker")


@pytest.fixture(scope="module")
def pairs():
    """Held-out scenes of two objects that are not small, with a point well inside each."""
    found = []
    for sample in sample_scenes(80, seed=77, size_px=SIZE_PX):
        if len(sample.masks) == 2 and min(mask.sum() for mask in sample.masks) > 400:
            depths = [cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) for mask in sample.masks]
            places = [np.unravel_index(int(depth.argmax()), depth.shape) for depth in depths]
            found.append((sample, [Point(x=float(column), y=float(row)) for row, column in places]))
    return found[:12]


def get_iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_masks_on_own_images_are_those_of_the_model_and_better_than_those_of_grabcut(pipe, pairs):
    ious = {"own": [], "grabcut": []}
    for sample, points in pairs:
        for name, segmenter in (("own", pipe.segmenter), ("grabcut", GrabCutSegmenter())):
            segmenter.set_image(sample.image)
            found = [segmenter.predict([point]) for point in points]
            ious[name] += [get_iou(*each) for each in zip(found, sample.masks, strict=True)]
    assert np.mean(ious["own"]) > 0.85
    assert np.mean(ious["own"]) > np.mean(ious["grabcut"]) + 0.05


def test_a_photograph_is_left_to_grabcut(pipe):
    photo = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((SIZE_PX, SIZE_PX)))
    grabcut = GrabCutSegmenter()
    for image in (photo, skimage.data.coffee()):
        assert not can_show_image(pipe, Image.fromarray(image))
        point = Point(x=image.shape[1] / 2, y=image.shape[0] / 2)
        for segmenter in (pipe.segmenter, grabcut):
            segmenter.set_image(image)
        np.testing.assert_array_equal(pipe.segmenter.predict([point]), grabcut.predict([point]))


def test_scenes_of_several_objects_are_own_images_and_photographs_are_not(pipe):
    weights = {"single": 0.25, "count": 0.4, "pair": 0.2, "trio": 0.15}
    world = StickerWorld(
        size_px=SIZE_PX, split="held_out", stages=[CurriculumStage(scene_weights=weights, grid_px=(16, 2))]
    )
    scenes = [Image.fromarray(world.get_image_sample(909, position).image) for position in range(60)]
    assert np.mean([can_show_image(pipe, scene) for scene in scenes]) >= 0.95
    for name in ("astronaut", "chelsea", "coffee", "camera", "clock", "rocket"):
        photo = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        side = min(photo.size)
        for crop in (photo.crop((0, 0, side, side)), photo.crop((side // 4, side // 4, side // 2, side // 2))):
            assert not can_show_image(pipe, crop.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)), name


def test_a_second_click_adds_the_other_object_and_a_negative_one_takes_it_away(pipe, pairs):
    added, removed = [], []
    for sample, (first, second) in pairs:
        pipe.segmenter.set_image(sample.image)
        one, both = pipe.segmenter.predict([first]), pipe.segmenter.predict([first, second])
        assert not (one & ~both).any()
        added.append(get_iou(both, np.logical_or(*sample.masks)))
        negative = Point(x=second.x, y=second.y, positive=False)
        removed.append(get_iou(pipe.segmenter.predict([first, second, negative]), sample.masks[0]))
    assert np.median(added) > 0.85
    assert np.median(removed) > 0.85


def test_an_image_in_which_nothing_is_found_is_left_to_grabcut():
    class Nothing:
        def set_image(self, image):
            self.shape = image.shape[:2]

        def predict(self, points):
            return np.zeros(self.shape, bool)

    segmenter = OwnImageSegmenter(Nothing(), lambda image: True)
    image = np.full((64, 64, 3), 230, np.uint8)
    cv2.circle(image, (32, 32), 12, (200, 30, 30), thickness=-1)
    segmenter.set_image(image)
    assert segmenter.predict([Point(x=32, y=32)])[32, 32]


def test_many_points_take_a_bounded_number_of_runs():
    class Counter:
        num_runs = 0

        def set_image(self, image):
            self.shape = image.shape[:2]

        def predict(self, points):
            self.num_runs += 1
            mask = np.zeros(self.shape, bool)
            mask[int(points[0].y), int(points[0].x)] = True
            return mask

    segmenter = OwnImageSegmenter(Counter(), lambda image: True)
    segmenter.set_image(np.zeros((64, 64, 3), np.uint8))
    mask = segmenter.predict([Point(x=index % 64, y=index // 64) for index in range(1000)])
    assert mask.sum() == segmenter.own.num_runs == 16


def test_a_model_without_a_segmenter_has_grabcut(pipe):
    class WithoutSegmenter:
        unet_segmenter = None

    assert isinstance(make_default_segmenter(WithoutSegmenter()), GrabCutSegmenter)
    pipe = ImageToVideoPipeline.from_pipe(pipe)
    assert isinstance(pipe.segmenter, OwnImageSegmenter)
    pipe.segmenter = GrabCutSegmenter()
    assert isinstance(pipe.segmenter, GrabCutSegmenter)
