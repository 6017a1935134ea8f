"""`dianjing stickers`: themes and options before weights load, and the plan of an album."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dianjing
from dianjing.cli import stickers_job
from dianjing.errors import DianjingError
from dianjing.pipelines import sticker_animation


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("zyzzyva",), "zyzzyva"),
        (("on the beach",), "names no object"),
        (("cat", "--count", "5"), "8, 16, 24"),
        (("cat", "--model", "hunyuan-dit-v1.2"), "names its objects"),
        (("no cat",), "should not be drawn"),
        (("cat",) * 9 + ("--count", "8"), "9 objects, more than the 8 stickers"),
    ],
)
def test_what_cannot_become_an_album_is_refused_before_weights_load(call, monkeypatch, tmp_path, arguments, part):
    monkeypatch.setattr(stickers_job, "load_pipeline", None)
    code, _, err = call("stickers", *arguments, "--album", str(tmp_path / "album"))
    assert code == 2
    assert part in err
    assert not (tmp_path / "album").exists()


def test_sloppy_themes_are_read_as_objects_with_colors(tmp_path):
    job = stickers_job.validate_stickers_job(
        ["“a RED car”!!", "xiaomao", "a dog and 2 stars"],
        folder=tmp_path / "album",
        count=8,
        seed=0,
        model="sticker",
        device="cpu",
        dtype="auto",
        producer=None,
    )
    assert [(theme.name, theme.colour) for theme in job.themes] == [
        ("car", "red"),
        ("cat", None),
        ("dog", None),
        ("star", None),
    ]
    assert [theme.meaning for theme in job.themes] == ["汽车", "小猫", "小狗", "星星"]


class StubPipeline:
    class config:  # noqa: N801
        default_fps = 8.0

    scheduler = trained_scheduler = SimpleNamespace()
    device = SimpleNamespace(type="cpu")
    dtype = "torch.float32"
    sampling_params = SimpleNamespace(num_inference_steps=8, guidance_scale=1.0, guider=None)

    def __init__(self):
        from dianjing.pipelines.prompting.motions import MotionVocabulary
        from dianjing.weights.registry import get_model_info

        folder = get_model_info("sticker").bundled_folder
        self.motion_vocabulary = MotionVocabulary.from_file(folder / "motions.json")

    def set_progress_bar_config(self, **settings):
        pass


@pytest.mark.parametrize(("option", "slow"), [([], None), (["--slow"], True), (["--few-steps"], False)])
def test_the_themes_take_turns_with_different_motions(call, monkeypatch, tmp_path, option, slow):
    def cut_out_object(pipe, name, **settings):
        assert settings["slow"] is slow
        return Image.new("RGBA", (24, 24), (200, 0, 0, 255))

    monkeypatch.setattr(stickers_job, "load_pipeline", lambda name, **where: StubPipeline())
    monkeypatch.setattr(dianjing.TextToImagePipeline, "from_pipe", classmethod(lambda cls, pipe: pipe))
    monkeypatch.setattr(sticker_animation, "cut_out_object", cut_out_object)
    monkeypatch.setattr(
        sticker_animation, "animate_sticker", lambda pipe, image, motion: np.stack([np.asarray(image)] * 2)
    )
    monkeypatch.setattr("dianjing.cli.stickers.print_json", lambda value: print(json.dumps(value)))
    code, out, _ = call("stickers", "cat", "red car", "--album", str(tmp_path / "album"), "--json", *option)
    assert code == 0
    result = json.loads(out)
    pairs = [(each["object"], each["motion"]) for each in result["stickers"]]
    assert [name for name, _ in pairs] == ["cat", "car"] * 4
    assert len(set(pairs)) == 8
    assert result["settings"]["num_inference_steps"] == 8
    assert {path.name for path in (tmp_path / "album").iterdir()} == {Path(path).name for path in result["paths"]}
    with Image.open(tmp_path / "album" / "icon.png") as icon:
        assert json.loads(icon.text["AIGC"])["Label"] == "1"


def test_a_sticker_is_the_visible_part_in_the_center_with_room_around_and_no_edge_cut_flat():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((200, 40, 40, 255), (0, 10, 20, 50))  # at the border, and not in the middle
    alpha = np.asarray(sticker_animation.fit_sticker(image))[..., 3]
    rows, columns = np.nonzero(alpha > 127)
    assert alpha.shape == (240, 240)
    assert rows.max() - rows.min() + 1 == pytest.approx(144, abs=2)
    assert columns.max() - columns.min() + 1 == pytest.approx(72, abs=2)
    assert (rows.max() + rows.min()) / 2 == pytest.approx(119.5, abs=1)
    assert (columns.max() + columns.min()) / 2 == pytest.approx(119.5, abs=1)
    assert 0 < alpha[120, columns.min() - 2] < 127 or 0 < alpha[120, columns.min() - 1] < 127  # a soft edge


def test_a_scaled_sticker_has_no_dark_rim():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((240, 200, 40, 255), (20, 20, 44, 44))
    pixels = np.asarray(sticker_animation.fit_sticker(image)).astype(int)
    rim = (pixels[..., 3] > 40) & (pixels[..., 3] < 250)
    assert np.abs(pixels[rim][:, :3] - (240, 200, 40)).max() < 16


def test_a_wholly_transparent_image_makes_no_sticker():
    with pytest.raises(DianjingError, match="wholly transparent"):
        sticker_animation.fit_sticker(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))


@pytest.mark.parametrize(("num_themes", "count"), [(1, 8), (8, 8), (9, 16), (17, 24), (24, 24)])
def test_an_album_is_by_default_the_smallest_that_shows_every_theme(tmp_path, num_themes, count):
    settings = {"seed": 0, "model": "sticker", "device": "cpu", "dtype": "auto", "producer": None}
    themes = ["cat", "红色的汽车"] * 12
    job = stickers_job.validate_stickers_job(themes[:num_themes], folder=tmp_path / "album", count=None, **settings)
    assert job.count == count


@pytest.mark.parametrize(
    ("theme", "names", "unknown", "is_reduced"),
    [
        ("a cat with a zyzzyva", ["cat"], ["zyzzyva"], False),
        ("猫和奥特曼", ["cat"], ["奥特曼"], False),
        ("unicornn", ["unicorn"], [], False),  # spelled almost as a known name
        ("a dog on the beach", ["dog"], [], True),
        ("3 stars", ["star"], [], True),
        ("a red car", ["car"], [], False),
        ("purple octopus", ["octopus"], ["purple"], False),  # has colors of its own
        ("紫色的章鱼", ["octopus"], ["紫色"], False),
    ],
)
def test_the_user_reads_what_a_sticker_does_not_show_of_its_theme(tmp_path, theme, names, unknown, is_reduced):
    settings = {"seed": 0, "model": "sticker", "device": "cpu", "dtype": "auto", "producer": None}
    job = stickers_job.validate_stickers_job([theme], folder=tmp_path / "album", count=8, **settings)
    assert [each.name for each in job.themes] == names
    assert list(job.unknown_words) == unknown
    warnings = " ".join(warning.render("en") for warning in stickers_job.list_theme_warnings(job))
    assert all(word in warnings for word in unknown)
    assert (theme in warnings) == is_reduced
    assert bool(warnings) == bool(unknown or is_reduced)
