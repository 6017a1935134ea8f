"""Every layout of a data set gives the same records, and problems are reported by name."""

import io
import json
import tarfile

import pytest
from PIL import Image

from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.inspect import decode_image, inspect_records
from dianjing.train.data.sources import list_dataset

WORDS = {"a": ("一只小猫", "a cat"), "b": ("一只小狗", "a dog")}


def png(colour="red", size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format="PNG")
    return file.getvalue()


def list_path(path, **columns):
    return list_dataset(DatasetConfig(path=path, **columns))


def check(listing):
    assert [(e.text_zh, e.text_en) for e in listing.records] == list(WORDS.values())
    assert listing.rejected == {}
    assert all(decode_image(record.source, name=record.name).size == (40, 30) for record in listing.records)


@pytest.fixture
def folder(tmp_path):
    for name, (zh, en) in WORDS.items():
        (tmp_path / f"{name}.png").write_bytes(png())
        (tmp_path / f"{name}.zh.txt").write_text(zh, encoding="utf-8")
        (tmp_path / f"{name}.en.txt").write_text(en)
    return tmp_path


def test_a_folder_with_captions_next_to_the_images(folder):
    check(list_path(folder))


def test_one_caption_is_of_the_language_it_is_written_in(tmp_path):
    for name, text in (("a", "一只小猫 cat"), ("b", "a dog")):
        (tmp_path / f"{name}.png").write_bytes(png())
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    a, b = list_path(tmp_path).records
    assert (a.text_zh, a.text_en) == ("一只小猫 cat", None)
    assert (b.text_zh, b.text_en) == (None, "a dog")


def rows():
    return [{"image": f"{name}.png", "text_zh": zh, "text_en": en} for name, (zh, en) in WORDS.items()]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_tables_name_images_next_to_them(folder, ending, monkeypatch, tmp_path_factory):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    table, path = datasets.Dataset.from_list(rows()), folder / f"set.{ending}"
    {"jsonl": table.to_json, "csv": table.to_csv, "parquet": table.to_parquet}[ending](str(path))
    check(list_path(path))


def test_a_saved_data_set_holds_its_images(folder, tmp_path_factory):
    import datasets

    features = datasets.Features(
        {"photo": datasets.Image(), "text_zh": datasets.Value("string"), "text_en": datasets.Value("string")}
    )
    rows_with_bytes = [
        {"photo": {"bytes": png(), "path": None}, "text_zh": zh, "text_en": en} for zh, en in WORDS.values()
    ]
    path = tmp_path_factory.mktemp("saved") / "set"
    datasets.Dataset.from_list(rows_with_bytes, features=features).save_to_disk(str(path))
    check(list_path(path, image_column="photo"))
    with pytest.raises(ValueError, match="no column 'image'; it has photo"):
        list_path(path)


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_tar_shards_in_the_layout_of_webdataset(tmp_path):
    files = {}
    for name, (zh, en) in WORDS.items():
        texts = json.dumps({"text_zh": zh, "text_en": en}).encode()
        files |= {f"{name}.png": png(), f"{name}.json": texts}
    write_tar(tmp_path / "shard-0.tar", {k: v for k, v in files.items() if k.startswith("a")})
    write_tar(tmp_path / "shard-1.tar", {k: v for k, v in files.items() if k.startswith("b")})
    check(list_path(tmp_path))
    (record,) = list_path(tmp_path / "shard-0.tar").records
    assert record.name == "shard-0.tar!a.png"


def test_members_that_lead_out_of_an_archive_are_ignored(tmp_path):
    bad = {"../evil.png": png(), "../evil.txt": b"evil", "/root.png": png(), "/root.txt": b"root"}
    write_tar(tmp_path / "a.tar", {**bad, "good.png": png(), "good.txt": b"good"})
    assert [record.text_en for record in list_path(tmp_path / "a.tar").records] == ["good"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_rows_that_lead_out_of_their_folder_are_named(folder, tmp_path_factory):
    pytest.importorskip("datasets")
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    outside.write_bytes(png())
    lines = [{"image": str(outside), "text_en": "x"}, {"image": "gone.png", "text_en": "y"}, rows()[0]]
    (folder / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    listing = list_path(folder / "set.jsonl")
    assert len(listing.records) == 1
    assert "leads out of" in str(listing.rejected["set.jsonl:1"])
    assert "there is no file" in str(listing.rejected["set.jsonl:2"])


def test_samples_without_a_readable_caption_are_rejected_by_name(tmp_path):
    for name, content in (("none", None), ("blank", b" \n"), ("latin", b"caf\xe9"), ("good", b"good")):
        (tmp_path / f"{name}.png").write_bytes(png())
        if content is not None:
            (tmp_path / f"{name}.txt").write_bytes(content)
    listing = list_path(tmp_path)
    assert [record.name for record in listing.records] == ["good.png"]
    assert str(listing.rejected["none.png"]) == str(listing.rejected["blank.png"]) == "it has no caption"
    assert "not UTF-8" in str(listing.rejected["latin.png"])


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut_tar", "bad_json"])
def test_paths_that_are_no_data_set_are_refused(tmp_path, kind):
    path = {"text": tmp_path / "a.txt", "cut_tar": tmp_path / "a.tar", "bad_json": tmp_path / "a.jsonl"}.get(kind)
    path = path or tmp_path / kind
    if kind == "empty":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"{nothing")
    with pytest.raises(ValueError, match=path.name):
        list_path(path)


def test_unreadable_images_are_rejected_by_name(tmp_path):
    contents = {
        "good": png(),
        "cut": png(size=(400, 300))[:200],
        "text": b"hello",
        "small": png(size=(8, 40)),
        "empty": b"",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        (tmp_path / f"{name}.txt").write_text(name)
    result = inspect_records(list_path(tmp_path).records, min_side_px=16)
    assert [record.name for record in result.records] == ["good.png"]
    assert result.sizes == [(40, 30)]
    assert set(result.rejected) == {"cut.png", "text.png", "small.png", "empty.png"}
    assert "data.min_side_px is 16" in str(result.rejected["small.png"])
