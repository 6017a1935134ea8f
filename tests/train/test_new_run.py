"""`--init --from` writes a run file and a data set file that are read, and names what it could not keep."""

import json

import pytest
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.train.cli import main
from dianjing.train.config.run_file import read_dataset_configs, read_run_config
from dianjing.train.data.sources import list_dataset
from dianjing.train.new_run import write_run_files


def make_images(folder, captions):
    """Images with captions; None: without."""
    folder.mkdir(parents=True)
    for index, caption in enumerate(captions):
        Image.new("RGB", (64, 48), "red").save(folder / f"{index}.png")
        if caption is not None:
            (folder / f"{index}.txt").write_text(caption, encoding="utf-8")
    return folder


def read_written(path):
    return read_run_config(path), read_dataset_configs(path.parent / "datasets.toml")


def test_a_run_for_a_folder_has_its_captions_as_prompts(tmp_path, capsys):
    captions = [f"a cat {index}" for index in range(10)]
    folder = make_images(tmp_path / "my pictures", captions)
    path = tmp_path / "run.toml"
    assert main(["--init", "--from", str(folder), str(path)]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == [str(path), str(tmp_path / "datasets.toml")]
    config, (dataset,) = read_written(path)
    assert (dataset.path, dataset.repeats) == (folder, 1)
    assert len(config.samples.prompts) == 4
    assert set(config.samples.prompts) < set(captions)
    template = tmp_path / "plain"
    template.mkdir()
    main(["--init", str(template / "run.toml")])
    plain = read_run_config(template / "run.toml")
    unchanged = {"data": config.data.model_copy(update={"datasets_file": plain.data.datasets_file})}
    assert config.model_copy(update={"samples": plain.samples, **unchanged}) == plain


@pytest.mark.parametrize("inside", ["", "img"])
def test_folders_of_kohya_give_repeats_and_class(tmp_path, inside):
    root = tmp_path / "train"
    make_images(root / inside / "10_sks dog", [None, "a dog on the grass"])
    make_images(root / inside / "3_红色_猫", [None])
    make_images(root / "reg" / "1_dog", [None])
    (root / "notes.md").write_text("x")
    _, notes = write_run_files(tmp_path / "run.toml", root)
    config, datasets = read_written(tmp_path / "run.toml")
    found = {(d.path.name, d.repeats, d.default_caption) for d in datasets}
    assert found == {("10_sks dog", 10, "sks dog"), ("3_红色_猫", 3, "红色_猫"), ("1_dog", 1, "dog")}
    captions = [r.text_en or r.text_zh for d in datasets for r in list_dataset(d).records]
    assert sorted(captions) == sorted(["sks dog", "a dog on the grass", "红色_猫", "dog"])
    assert {note.message_id for note in notes} == {"kohya_regularization", "kohya_files_left_out"}
    assert set(config.samples.prompts) <= set(captions)


KOHYA = """
[general]
shuffle_caption = true
caption_extension = '.txt'
keep_tokens = 1
enable_bucket = false

[[datasets]]
resolution = 512
batch_size = 2
keep_tokens = 2
num_repeats = 7

  [[datasets.subsets]]
  image_dir = 'first'
  class_tokens = 'hoge girl'
  flip_aug = true
  alpha_mask = true
  caption_dropout_rate = 0.25
  caption_prefix = 'best quality, '
  caption_suffix = ', outside'

  [[datasets.subsets]]
  image_dir = 'second'
  num_repeats = 3
  is_reg = true
  random_crop = false

[[datasets]]
resolution = [1024, 256]
batch_size = 4

  [[datasets.subsets]]
  image_dir = 'second'
  conditioning_data_dir = 'canny'
  metadata_file = 'meta.json'
"""


def test_a_data_set_file_of_kohya_is_carried_over_and_the_rest_named(tmp_path):
    source = tmp_path / "kohya"
    make_images(source / "first", ["a thing", None])
    make_images(source / "second", ["一只猫"])
    (source / "sets.toml").write_text(KOHYA, encoding="utf-8")
    _, notes = write_run_files(tmp_path / "run.toml", source / "sets.toml")
    config, (first, second, third) = read_written(tmp_path / "run.toml")
    assert (config.run.batch_size, config.data.max_aspect_ratio) == (2, 1.0)
    assert [each.path for each in (first, second, third)] == [source / n for n in ("first", "second", "second")]
    assert (first.repeats, second.repeats, third.repeats) == (7, 3, 1)
    assert (first.flip, first.loss_mask, first.caption_dropout) == (True, "alpha", 0.25)
    assert (second.flip, second.loss_mask, second.caption_dropout) == (False, "file", None)
    assert {each.caption_extension for each in (first, second, third)} == {".txt"}
    assert (config.data.size_px, first.size_px) == (512, None)  # 1024 x 256 has the area of 512 x 512
    texts = [record.text_en for record in list_dataset(first).records]
    assert texts == ["best quality, a thing, outside", "best quality, hoge girl, outside"]
    named = {(note.message_id, note.arguments.get("key"), note.arguments.get("place")) for note in notes}
    assert named == {
        ("kohya_setting_unsupported", "shuffle_caption", "general"),
        ("kohya_setting_unsupported", "keep_tokens", "general"),
        ("kohya_setting_unsupported", "keep_tokens", "datasets[0]"),
        ("kohya_regularization", None, "datasets[0].subsets[1]"),
        ("kohya_conditioning_folder", None, "datasets[1].subsets[0]"),
        ("kohya_metadata_file", None, "datasets[1].subsets[0]"),
        ("kohya_several_batch_sizes", None, None),
    }
    assert "shuffle_caption" in (tmp_path / "datasets.toml").read_text(encoding="utf-8")


def test_sizes_that_differ_belong_to_their_data_sets(tmp_path):
    make_images(tmp_path / "a", ["a cat"])
    tree = {"datasets": [{"resolution": size, "subsets": [{"image_dir": "a"}]} for size in (512, 768)]}
    (tmp_path / "sets.json").write_text(json.dumps(tree))
    write_run_files(tmp_path / "run.toml", tmp_path / "sets.json")
    _, datasets = read_written(tmp_path / "run.toml")
    assert [dataset.size_px for dataset in datasets] == [512, 768]


def test_every_setting_of_sd_scripts_is_carried_over_or_named(tmp_path):
    """The subset settings that its documentation lists, each with a value that has an effect."""
    values = {
        "color_aug": True,
        "face_crop_aug_range": [1.0, 3.0],
        "flip_aug": True,
        "keep_tokens": 2,
        "num_repeats": 10,
        "random_crop": True,
        "shuffle_caption": True,
        "caption_prefix": "a",
        "caption_suffix": "b",
        "caption_separator": ";",
        "keep_tokens_separator": "|||",
        "secondary_separator": ";;;",
        "enable_wildcard": True,
        "resize_interpolation": "area",
        "caption_extension": ".txt",
        "class_tokens": "c",
        "is_reg": True,
        "metadata_file": "m.json",
        "caption_dropout_every_n_epochs": 2,
        "caption_dropout_rate": 0.1,
        "caption_tag_dropout_rate": 0.1,
        "token_warmup_min": 2,
        "token_warmup_step": 5,
        "alpha_mask": True,
        "conditioning_data_dir": "c",
        "bucket_no_upscale": True,
        "bucket_reso_steps": 64,
        "max_bucket_reso": 1024,
        "min_bucket_reso": 128,
        "skip_image_resolution": 768,
        "network_multiplier": 0.5,
        "not_invented_yet": 1,
    }
    make_images(tmp_path / "a", ["a cat"])
    defaults = {"path": str(tmp_path / "a")}
    for key, value in values.items():
        folder = tmp_path / key
        folder.mkdir()
        tree = {"datasets": [{"subsets": [{"image_dir": defaults["path"], key: value}]}]}
        (folder / "sets.json").write_text(json.dumps(tree))
        _, notes = write_run_files(folder / "run.toml", folder / "sets.json")
        (dataset,) = read_dataset_configs(folder / "datasets.toml")
        changed = dataset.model_dump(exclude_defaults=True).keys() - {"path"}
        assert (len(changed), len(notes)) in ((1, 0), (0, 1)), key
        assert not notes or key in str(notes[0]) or key == "is_reg"


def test_nothing_is_written_over_or_half(tmp_path):
    folder = make_images(tmp_path / "a", ["a cat"])
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "no.toml").write_text("[[datasets]]\npath = 'a'\n")
    out = tmp_path / "out"
    out.mkdir()
    for source in (tmp_path / "gone", empty, tmp_path / "no.toml", make_images(tmp_path / "b", [None])):
        with pytest.raises(DianjingError):
            write_run_files(out / "run.toml", source)
    assert not list(out.iterdir())
    (out / "datasets.toml").write_text("mine")
    with pytest.raises(DianjingError, match=r"datasets\.toml exists"):
        write_run_files(out / "run.toml", folder)
    assert [path.name for path in out.iterdir()] == ["datasets.toml"]
    assert main([str(out / "run.toml"), "--from", str(folder)]) == 2


WRONG_FILES = {  # content -> a part of the message
    "broken.json": (b'{"datasets": [}', "broken.json"),
    "gbk.json": ('{"datasets": [{"subsets": [{"image_dir": "图片文件夹"}]}]}'.encode("gbk"), "gbk.json"),
    "repeats.toml": (b"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nnum_repeats = 'ten'\n", "repeats"),
    "zero.toml": (b"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nnum_repeats = 0\n", "repeats"),
    "general.toml": (b"general = 3\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n", "general.toml"),
    "none.toml": (b"datasets = []\n", "none.toml"),
    "folder.toml": (b"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'gone'\n", "gone"),
    "nowhere.toml": (b"[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 3\n", "image_dir"),
    "windows.toml": (b'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "C:\\pictures"\n', "single quotes"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files_of_kohya_are_refused_by_name(tmp_path, name):
    make_images(tmp_path / "a", ["a cat"])
    content, part = WRONG_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DianjingError) as error:
        write_run_files(tmp_path / "run.toml", tmp_path / name)
    assert part in str(error.value)
    assert not (tmp_path / "run.toml").exists()


def test_a_resolution_that_is_not_read_is_named(tmp_path):
    make_images(tmp_path / "a", ["a cat"])
    tree = {"datasets": [{"resolution": "512,512", "subsets": [{"image_dir": "a"}]}]}
    (tmp_path / "sets.json").write_text(json.dumps(tree))
    _, notes = write_run_files(tmp_path / "run.toml", tmp_path / "sets.json")
    assert [note.arguments["key"] for note in notes] == ["resolution"]
