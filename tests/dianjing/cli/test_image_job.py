"""`dianjing image` with a stub pipeline: files, metadata, grids, names, labels."""

import json
from pathlib import Path

import pytest
from PIL import Image

import dianjing
from dianjing.cli import image_job
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata


def test_an_image_is_written_with_its_metadata(stub, call):
    code, out, _ = call("image", "一只小猫", "--seed", "7", "--out", "cat.png", "--steps", "20", "--size", "64x32")
    assert code == 0
    assert out == "cat.png\n"
    record = read_image_metadata("cat.png")
    assert (record.prompt, record.seed, record.model) == ("一只小猫", 7, "sticker")
    assert record.settings["width"] == 64
    assert record.settings["height"] == 32
    assert record.settings["num_inference_steps"] == 20
    assert record.settings["guidance_scale"] == 4.5
    assert record.version == dianjing.__version__


def test_settings_left_out_are_left_to_the_model(stub, call):
    call("image", "cat")
    assert stub.calls == [{"prompt": "cat", "count": 1}]


@pytest.mark.parametrize(
    ("arguments", "expected"), [([], {}), (["--slow"], {"slow": True}), (["--few-steps"], {"slow": False})]
)
def test_the_choice_of_few_steps_reaches_the_pipeline(stub, call, arguments, expected):
    assert call("image", "cat", *arguments)[0] == 0
    assert stub.calls == [{"prompt": "cat", "count": 1, **expected}]


@pytest.mark.parametrize("arguments", [["--steps", "20"], ["--negative-prompt", "a dog"], ["--guidance-mode", "apg"]])
def test_few_steps_with_settings_that_rule_them_out_are_refused_before_weights_load(stub, call, arguments):
    code, _, err = call("image", "cat", "--few-steps", *arguments)
    assert code == 2
    assert "few steps were asked for" in err
    assert stub.calls == []


def test_json_on_stdout_has_ids_paths_and_settings(stub, call):
    code, out, _ = call("image", "cat", "--seed", "3", "--json")
    (image,) = json.loads(out)["images"]
    assert code == 0
    assert image["seed"] == 3
    assert image["path"] == "dianjing-3.png"
    assert len(image["id"]) == 32
    assert image["settings"]["num_inference_steps"] == 20
    assert image["unknown_words"] == []


def test_json_names_unknown_words(stub, call):
    _, out, _ = call("image", "a zyzzyva", "--json")
    assert json.loads(out)["images"][0]["unknown_words"] == ["zyzzyva"]


def test_each_image_of_a_count_has_its_own_seed(stub, call):
    call("image", "cat", "--seed", "5", "--count", "3", "--out", "a.png")
    call("image", "cat", "--seed", "7", "--out", "b.png")
    assert [read_image_metadata(f"a-{i}.png").seed for i in (1, 2, 3)] == [5, 6, 7]
    assert Image.open("a-3.png").tobytes() == Image.open("b.png").tobytes()
    assert Image.open("a-2.png").tobytes() != Image.open("b.png").tobytes()


def test_a_grid_shows_every_image_in_order(stub, call):
    prompts = ("cat", "dog", "bird")
    code, out, _ = call("image", *prompts, "--count", "2", "--seed", "1", "--out", "a.png", "--grid", "all.png")
    assert code == 0
    assert out.splitlines()[-1] == "all.png"
    record = read_image_metadata("all.png")
    assert record.prompt.splitlines() == list(prompts)
    grid, third = Image.open("all.png"), Image.open("a-3.png")
    scale = -(-128 // third.width)
    size = (third.width * scale, third.height * scale)
    assert grid.size == (2 * size[0] + 4, 3 * size[1] + 8)  # a row for each prompt
    second_row = grid.crop((0, size[1] + 4, size[0], 2 * size[1] + 4))
    assert second_row.tobytes() == third.resize(size, Image.Resampling.BICUBIC).tobytes()


def test_more_images_than_a_batch_are_all_written(stub, call):
    call("image", "cat", "dog", "--seed", "0", "--count", "11", "--out", "a.png")
    records = [read_image_metadata(f"a-{i}.png") for i in range(1, 23)]
    assert [record.seed for record in records] == [*range(11), *range(11)]
    assert [record.prompt for record in records] == ["cat"] * 11 + ["dog"] * 11
    assert max(call["count"] for call in stub.calls) <= image_job.IMAGE_BATCH_SIZE


def test_a_default_name_never_overwrites_a_file(stub, call):
    Path("dianjing-3.png").write_bytes(b"mine")
    _, out, _ = call("image", "cat", "--seed", "3")
    assert out == "dianjing-3-1.png\n"
    assert Path("dianjing-3.png").read_bytes() == b"mine"


def test_a_folder_as_out_receives_the_images(stub, call):
    Path("outputs").mkdir()
    _, out, _ = call("image", "cat", "--seed", "3", "--count", "2", "--out", "outputs")
    assert out.split() == ["outputs/dianjing-3-1.png", "outputs/dianjing-3-2.png"]


def test_a_default_seed_is_random_and_reported(stub, call):
    seeds = set()
    for _ in range(2):
        _, out, _ = call("image", "cat", "--json")
        seeds.add(json.loads(out)["images"][0]["seed"])
    assert len(seeds) == 2


@pytest.mark.parametrize(("option", "labelled"), [([], True), (["--label"], True), (["--no-label"], False)])
def test_the_label_is_there_unless_switched_off(stub, call, option, labelled):
    call("image", "cat", "--out", "a.png", *option)
    assert (XMP_KEY in Image.open("a.png").text) == labelled


def test_the_label_names_the_producer(stub, call):
    call("image", "cat", "--out", "a.png", "--producer", "某社")
    assert '"ContentProducer":"某社"' in Image.open("a.png").text[XMP_KEY]


@pytest.fixture
def transparent_stub(stub):
    """A stub that cuts the left half out of an image."""

    def remove_background(image, prompt):
        image = image.convert("RGBA")
        image.putalpha(Image.new("L", image.size, 0))
        image.paste((200, 0, 0, 255), (0, 0, image.width // 2, image.height))
        return image

    stub.remove_background = remove_background
    return stub


@pytest.mark.parametrize("name", ["cat.png", "cat.webp"])
def test_a_transparent_image_has_an_alpha_channel_metadata_and_label(transparent_stub, call, name):
    code, out, _ = call("image", "a cat", "--transparent", "--seed", "7", "--out", name)
    assert (code, out) == (0, f"{name}\n")
    with Image.open(name) as image:
        assert image.mode == "RGBA"
        assert image.getchannel("A").getextrema() == (0, 255)
    metadata = read_image_metadata(name)
    assert (metadata.seed, metadata.settings["background"]) == (7, "transparent")


def test_a_grid_of_transparent_images_is_on_white(transparent_stub, call):
    code, _, _ = call("image", "a cat", "--transparent", "--out", "cat.webp", "--grid", "grid.png")
    assert code == 0
    with Image.open("grid.png") as grid:
        assert grid.getpixel((grid.width - 2, 2)) == (255, 255, 255)
        assert grid.getpixel((2, 2)) != (255, 255, 255)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(("on the grass",), "names no object"), (("cat", "--out", "cat.jpg"), "does not end in .png, .webp")],
)
def test_what_cannot_be_transparent_is_refused_before_weights_load(call, monkeypatch, tmp_path, arguments, part):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_job, "load_conditioned_pipeline", None)
    code, _, err = call("image", *arguments, "--transparent")
    assert code == 2
    assert part in err
    assert list(tmp_path.iterdir()) == []
