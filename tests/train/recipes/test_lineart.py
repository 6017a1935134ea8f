"""The recipe of a ControlNet for line drawings: its run file, and drawings that lie on the objects of their scenes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dianjing.train.config.run_file import read_run_config
from dianjing.train.recipes import sticker_scene_data
from dianjing.train.recipes.sticker_scene_data import LINEART, SCENES, write_scenes
from dianjing.train.stickers import StickerWorld
from dianjing.weights.registry import STICKER_SIZE_PX


def test_each_scene_has_lines_along_its_objects(tmp_path):
    write_scenes(tmp_path, LINEART, count=6, seed=1)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    world = StickerWorld(size_px=STICKER_SIZE_PX, stages=(SCENES[LINEART],))
    for position, row in enumerate(rows):
        sample = world.get_image_sample(1, position)
        assert (row["text_zh"], row["text_en"]) == (sample.text_zh, sample.text_en)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / row["file_name"])), sample.image)
        lines = np.asarray(Image.open(tmp_path / row["control_image"]).convert("L")) > 40
        objects = sample.masks.any(axis=0)
        assert lines[objects].mean() > 1.5 * lines[~objects].mean()


def test_the_run_file_trains_a_controlnet_on_the_drawings_alone():
    config = read_run_config(Path(sticker_scene_data.__file__).with_name("sticker_lineart.toml"))
    assert (config.model.trainable, config.model.control_preprocessor) == ("controlnet", "none")
