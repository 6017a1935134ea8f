"""Golden cases of video: from words in one window and several, and from a picture with clicks and masks."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from dianjing import ImageToVideoPipeline, Point, Region, TextToVideoPipeline
from tests.golden.pictures import seeded
from tests.golden.results import Results, array

STEPS = 2
PICTURE = Path(__file__).parent / "inputs" / "scene.png"
WINDOW = 9  # frames of the embedded model


@cache
def from_words() -> TextToVideoPipeline:
    pipe: TextToVideoPipeline = TextToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def from_picture() -> ImageToVideoPipeline:
    pipe: ImageToVideoPipeline = ImageToVideoPipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def words(folder: Path) -> Results:
    """A short video with a motion, one without a motion, and long ones in windows."""
    pipe, results = from_words(), {}
    results["short"] = array(
        pipe(
            "a dog jumping",
            num_frames=5,
            num_inference_steps=STEPS,
            generator=seeded(0),
            output_type="latent",
            return_dict=False,
        )[0]
    )
    results["short levels"] = np.asarray(
        pipe(
            "草地上，一只小猫在跳",
            num_frames=3,
            num_inference_steps=STEPS,
            guidance_scale=4.0,
            generator=seeded(1),
            output_type="uint8",
            return_dict=False,
        )[0]
    )
    results["still"] = array(
        pipe(
            "a house at night",
            num_frames=3,
            num_inference_steps=STEPS,
            generator=seeded(2),
            output_type="latent",
            return_dict=False,
        )[0]
    )
    results["two at once"] = array(
        pipe(
            ["a dog jumping", "一个红气球在上升"],
            duration_s=0.5,
            fps=8,
            num_inference_steps=STEPS,
            generator=[seeded(3), seeded(4)],
            output_type="latent",
            return_dict=False,
        )[0]
    )
    return results


def windows(folder: Path) -> Results:
    """Longer than a window: one window after the other, which is this model's default, and all together."""
    pipe, results = from_words(), {}
    prompt = "一只小猫在跳，一个红气球在上升"
    one_by_one = pipe(
        prompt,
        num_frames=WINDOW + 4,
        num_inference_steps=STEPS,
        generator=seeded(0),
        output_type="latent",
        return_dict=False,
    )[0]
    together = pipe(
        prompt,
        num_frames=WINDOW + 4,
        num_inference_steps=STEPS,
        generator=seeded(0),
        output_type="latent",
        long_video="joint",
        return_dict=False,
    )[0]
    results["one by one"], results["together"] = array(one_by_one), array(together)
    return results


def regions(folder: Path) -> Results:
    """A click, a mask, both at two strengths, and a video longer than a window from a picture of another size."""
    pipe, picture = from_picture(), Image.open(PICTURE)
    fox = Region(motion="jump", points=[Point(x=16, y=34)], strength=0.7)
    mask = np.zeros((picture.height, picture.width), bool)
    mask[20:52, 34:60] = True
    tree = Region(motion="向左移动", mask=mask, strength=0.3)
    weak = Region(motion="jump", points=[Point(x=16, y=34), Point(x=50, y=36, positive=False)], strength=0.2)
    results: Results = {"masks": pipe.predict_masks(picture, [fox, tree, weak])}
    chosen = {"click": [fox], "mask": [tree], "both": [fox, tree], "weak": [weak]}
    for name, asked in chosen.items():
        results[name] = array(
            pipe(
                picture,
                asked,
                num_frames=4,
                num_inference_steps=STEPS,
                generator=seeded(0),
                output_type="latent",
                return_dict=False,
            )[0]
        )
    results["levels"] = np.asarray(
        pipe(
            picture,
            [fox],
            "a fox and a tree",
            num_frames=3,
            num_inference_steps=STEPS,
            guidance_scale=2.0,
            generator=seeded(1),
            output_type="uint8",
            return_dict=False,
        )[0]
    )
    large = picture.resize((160, 96), Image.Resampling.BICUBIC)
    far = Region(motion="go right", points=[Point(x=60, y=52)])
    results["long"] = array(
        pipe(
            large,
            [far],
            num_frames=WINDOW + 3,
            num_inference_steps=STEPS,
            generator=seeded(2),
            output_type="latent",
            return_dict=False,
        )[0]
    )
    return results
