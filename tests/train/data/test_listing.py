"""Captions of a data set: trigger word, prefix, suffix, default, and files of other suffixes."""

import pytest

from dianjing.train.config.data import DatasetConfig
from dianjing.train.text_files import join_captions
from tests.train.dataset_files import PNG, get_captions, list_path, write_files

FILES = {
    "a.png": PNG,
    "a.txt": b"a red thing",
    "b.png": PNG,
    "b.txt": "草地上的东西".encode(),
    "c.png": PNG,
    "c.txt": b"a SKS on the grass",
    "d.png": PNG,
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"trigger_word": "sks"}, ["sks a red thing", "sks 草地上的东西", "a SKS on the grass", "sks"]),
        ({"caption_prefix": "a photo of"}, ["a photo of a red thing", "a photo of 草地上的东西", None, None]),
        ({"caption_prefix": "一张照片，"}, ["一张照片，a red thing", "一张照片，草地上的东西", None, None]),
        ({"caption_suffix": ", outside"}, ["a red thing, outside", "草地上的东西, outside", None, None]),
        ({"default_caption": "a thing"}, ["a red thing", "草地上的东西", "a SKS on the grass", "a thing"]),
        (
            {"trigger_word": "sks", "caption_prefix": "a photo of", "default_caption": "sks thing"},
            ["a photo of sks a red thing", None, "a photo of a SKS on the grass", "a photo of sks thing"],
        ),
    ],
)
def test_captions_are_completed_as_the_data_set_says(tmp_path, settings, expected):
    captions = get_captions(list_path(write_files(tmp_path, FILES), **settings))
    for name, caption in zip("abcd", expected, strict=True):
        if caption is not None:
            assert captions[f"{name}.png"] == caption
    assert ("d.png" in captions) == bool({"trigger_word", "default_caption"} & settings.keys())


def test_both_languages_get_the_trigger_word(tmp_path):
    write_files(tmp_path, {"a.png": PNG, "a.zh.txt": "一只猫".encode(), "a.en.txt": b"a cat"})
    (record,) = list_path(tmp_path, trigger_word="小黄").records
    assert (record.text_zh, record.text_en) == ("小黄一只猫", "小黄 a cat")


def test_a_caption_extension_comes_first_and_empty_files_do_not_count(tmp_path):
    files = {"a.png": PNG, "a.tags": b"from tags", "a.txt": b"from text", "a.caption": b"from caption"}
    files |= {"b.png": PNG, "b.txt": b"\xef\xbb\xbf", "b.caption": b"from caption"}
    write_files(tmp_path, files)
    assert get_captions(list_path(tmp_path)) == {"a.png": "from text", "b.png": "from caption"}
    for extension in ("tags", ".tags", ".TAGS"):
        captions = get_captions(list_path(tmp_path, caption_extension=extension))
        assert captions == {"a.png": "from tags", "b.png": "from caption"}


def test_settings_of_a_data_set_reach_its_samples(tmp_path):
    (record,) = list_path(write_files(tmp_path, {"a.png": PNG, "a.txt": b"a"}), fit="pad", caption_dropout=0.5).records
    assert (record.fit, record.caption_dropout) == ("pad", 0.5)
    assert DatasetConfig(path=tmp_path).caption_dropout is None


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("a", "b", "a b"),
        ("", "b", "b"),
        ("a", "", "a"),
        ("a, ", "b", "a, b"),
        ("a", ", b", "a, b"),
        ("猫", "狗", "猫狗"),
        ("猫，", "dog", "猫，dog"),
        ("cat", "狗", "cat 狗"),
        ("猫", "。", "猫。"),
    ],
)
def test_parts_of_captions_are_joined_as_they_are_written(first, second, joined):
    assert join_captions(first, second) == joined
