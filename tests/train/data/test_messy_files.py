"""Data sets as other programs leave them: junk, encodings, cases of letters, broken rows and archives."""

import io
import json
import tarfile
import zipfile

import pytest
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.train.config.data import DatasetConfig
from dianjing.train.config.run_file import read_dataset_configs, read_toml
from dianjing.train.data.inspect import inspect_records
from dianjing.train.data.sources import list_dataset


def make_png(image_format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, format=image_format)
    return file.getvalue()


PNG = make_png()
JUNK = {
    "._cat.png": b"\0\5\x16\7",
    ".DS_Store": b"\0\0\0\1Bud1",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "desktop.ini": b"[.ShellClassInfo]",
    ".hidden.png": PNG,
    ".hidden.txt": b"hidden",
    "@eaDir/cat.png/SYNOPHOTO_THUMB_XL.jpg": PNG,
    "__MACOSX/._cat.png": b"\0\5\x16\7",
    "__MACOSX/cat.png": PNG,
    ".git/objects/cat.png": PNG,
    ".ipynb_checkpoints/cat-checkpoint.png": PNG,
    ".ipynb_checkpoints/cat-checkpoint.txt": b"an old cat",
    "#recycle/cat.png": PNG,
    "$RECYCLE.BIN/cat.png": PNG,
}
SAMPLE = {"cat.png": PNG, "cat.txt": b"a cat"}


def write_files(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_set(tmp_path, files, layout):
    """Files as a folder, as a tar or as a zip archive."""
    if layout == "folder":
        return write_files(tmp_path / "set", files)
    return (write_tar if layout == "tar" else write_zip)(tmp_path / f"set.{layout}", files)


def list_path(path, **settings):
    return list_dataset(DatasetConfig(path=path, **settings))


def get_captions(listing):
    return {record.name.split("!")[-1]: record.text_zh or record.text_en for record in listing.records}


LAYOUTS = pytest.mark.parametrize("layout", ["folder", "tar", "zip"])


@LAYOUTS
def test_junk_is_passed_over_and_not_counted(tmp_path, layout):
    listing = list_path(write_set(tmp_path, JUNK | SAMPLE, layout))
    assert get_captions(listing) == {"cat.png": "a cat"}
    assert listing.rejected == listing.unused == {}
    assert listing.records[0].source.read() == PNG


def test_a_hidden_folder_may_be_the_data_set_itself(tmp_path):
    assert list_path(write_files(tmp_path / ".data" / "__macosx", SAMPLE)).records


def test_junk_beside_shards_is_no_shard(tmp_path):
    write_tar(tmp_path / "a.TAR", SAMPLE)
    (tmp_path / "._a.TAR").write_bytes(b"\0\5\x16\7")
    listing = list_path(tmp_path)
    assert [record.name for record in listing.records] == ["a.TAR!cat.png"]
    assert listing.rejected == {}


@LAYOUTS
def test_names_keep_their_dots_and_suffixes_may_have_any_case(tmp_path, layout):
    files = {
        "a.v2.png": PNG,
        "a.v2.txt": b"second",
        "a.v1.png": PNG,
        "a.v1.txt": b"first",
        "IMG.PNG": PNG,
        "IMG.TXT": b"upper",
        "b.Jpg": PNG,
        "b.EN.txt": b"mixed",
        "sub.dir/c.png": PNG,
        "sub.dir/c.caption": b"by another tool",
    }
    assert get_captions(list_path(write_set(tmp_path, files, layout))) == {
        "a.v1.png": "first",
        "a.v2.png": "second",
        "IMG.PNG": "upper",
        "b.Jpg": "mixed",
        "sub.dir/c.png": "by another tool",
    }


@LAYOUTS
def test_orphans_and_unreadable_kinds_are_named(tmp_path, layout):
    extra = {"lone.txt": b"no picture", "lone.mask.png": PNG, "photo.CR2": b"raw", "drawing.svg": b"<svg/>"}
    listing = list_path(write_set(tmp_path, SAMPLE | extra, layout))
    assert get_captions(listing) == {"cat.png": "a cat"}
    assert {name.split("!")[-1] for name in listing.unused} == {"lone.txt", "lone.mask.png"}
    assert all("no image or video named lone" in str(reason) for reason in listing.unused.values())
    reasons = {name.split("!")[-1]: str(reason) for name, reason in listing.rejected.items()}
    assert set(reasons) == {"photo.CR2", "drawing.svg"}
    assert ".cr2" in reasons["photo.CR2"]


def test_heic_that_cannot_be_decoded_is_rejected_by_name(tmp_path):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    write_files(tmp_path, SAMPLE | {"phone.HEIC": heic, "phone.txt": b"a phone"})
    result = inspect_records(list_path(tmp_path).records, min_side_px=16)
    assert [record.name for record in result.records] == ["cat.png"]
    assert list(result.rejected) == ["phone.HEIC"]


def test_avif_is_read(tmp_path):
    write_files(tmp_path, {"a.avif": make_png("AVIF"), "a.txt": b"a cat"})
    result = inspect_records(list_path(tmp_path).records, min_side_px=16)
    assert (result.sizes, result.rejected) == ([(40, 30)], {})


CAPTIONS = {  # file content -> caption, or a part of the reason for rejection
    "bom": ("\ufeffa red cat".encode(), "a red cat"),
    "zeros": (b"a cat\0\0", "a cat"),
    "lines": (b"a red cat\r\non the grass\r\n", "a red cat on the grass"),
    "chinese": ("一只猫".encode(), "一只猫"),
    "bom_only": (b"\xef\xbb\xbf", "no caption"),
    "bom_and_space": (b"\xef\xbb\xbf \r\n", "no caption"),
    "utf16": ("a red cat".encode("utf-16"), "UTF-16"),
    "utf16_without_mark": ("a red cat".encode("utf-16-le"), "UTF-16"),
    "utf16_big_endian": (b"\xfe\xff" + "一只猫".encode("utf-16-be"), "UTF-16"),
    "utf32": ("a red cat".encode("utf-32"), "UTF-32"),
    "gbk": ("草地上的一只小猫".encode("gbk"), "GBK"),
    "latin": (b"caf\xe9", "not UTF-8"),
}


@LAYOUTS
def test_encodings_of_captions_are_read_or_named(tmp_path, layout):
    files = {f"{name}.png": PNG for name in CAPTIONS} | {f"{name}.txt": raw for name, (raw, _) in CAPTIONS.items()}
    listing = list_path(write_set(tmp_path, files, layout))
    rejected = {name.split("!")[-1]: str(reason) for name, reason in listing.rejected.items()}
    captions = get_captions(listing)
    for name, (_, expected) in CAPTIONS.items():
        if f"{name}.png" in captions:
            assert captions[f"{name}.png"] == expected
        else:
            assert expected in rejected[f"{name}.png"]
    assert len(captions) == 4


def test_a_metadata_table_names_the_captions_of_its_folder(tmp_path):
    lines = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "sub/b.png", "text": "一只狗"}]
    lines += [{"file_name": "../cat.png", "text": "outside"}, {"file_name": "gone.png", "text": "gone"}]
    content = "\ufeff" + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    files = {"a.png": PNG, "sub/b.png": PNG, "c.png": PNG, "c.txt": b"beside", "metadata.jsonl": content.encode()}
    folder = write_files(tmp_path / "set", files)
    (tmp_path / "cat.png").write_bytes(PNG)
    listing = list_path(folder)
    assert get_captions(listing) == {"a.png": "a cat", "sub/b.png": "一只狗", "c.png": "beside"}
    assert list(listing.rejected) == ["metadata.jsonl:3", "metadata.jsonl:4"]


@pytest.mark.parametrize("name", ["metadata.csv", "UPPER.CSV", "set.tsv", "set.json"])
def test_tables_are_read_with_a_byte_order_mark_and_file_name(tmp_path, name):
    separator = "\t" if name.endswith("tsv") else ","
    text = f"\ufefffile_name{separator}text\na.png{separator}a cat\n"
    if name.endswith("json"):
        text = '\ufeff{"data": [{"file_name": "a.png", "text": "a cat"}]}'
    write_files(tmp_path, {"a.png": PNG, name: text.encode()})
    assert get_captions(list_path(tmp_path / name)) == {"a.png": "a cat"}


def test_a_table_in_gbk_is_named(tmp_path):
    write_files(tmp_path, {"a.png": PNG, "set.csv": "image,text_zh\na.png,草地上的小猫\n".encode("gbk")})
    with pytest.raises(DianjingError, match=r"set\.csv.*GBK"):
        list_path(tmp_path / "set.csv")


ROWS = {  # a line of JSON Lines -> a part of its reason
    '{"image": "a.png", "text_en": 5}': "text_en is 5 (int)",
    '{"image": "a.png", "text": ["a", "b"]}': "(list)",
    '{"image": "a.png", "caption": {"a": 1}}': "(dict)",
    '{"image": 7, "text": "a"}': "name is 7",
    '{"text": "a"}': "names no file",
    '{"image": "a.png", "text": "a", "strength": "fast"}': "strength is fast",
    "{broken": "column 2",
    '"a.png"': "no JSON object",
    '{"image": "gone.png", "text": "a"}': "no file",
}


def test_wrong_rows_are_named_by_line_with_the_cause(tmp_path):
    good = '{"image": "a.png", "text": "one\u2028line"}'
    write_files(tmp_path, {"a.png": PNG, "set.jsonl": "\n".join([good, "", *ROWS]).encode()})
    listing = list_path(tmp_path / "set.jsonl")
    assert get_captions(listing) == {"a.png": "one line"}
    reasons = [str(listing.rejected[f"set.jsonl:{line}"]) for line in range(3, 3 + len(ROWS))]
    assert len(listing.rejected) == len(ROWS)
    for reason, expected in zip(reasons, ROWS.values(), strict=True):
        assert expected in reason


def test_a_comma_outside_of_quotes_does_not_cut_a_caption(tmp_path):
    table = 'image,text\na.png,"a cat, sleeping"\na.png,a cat, sleeping\n'
    write_files(tmp_path, {"a.png": PNG, "set.csv": table.encode()})
    listing = list_path(tmp_path / "set.csv")
    assert get_captions(listing) == {"a.png": "a cat, sleeping"}
    assert "quotes" in str(listing.rejected["set.csv:3"])


def test_broken_json_is_named_by_line_and_column(tmp_path):
    write_files(tmp_path, {"set.json": b'[{"image": "a.png",\n "text": }]'})
    with pytest.raises(DianjingError, match="line 2, column 10"):
        list_path(tmp_path / "set.json")


@pytest.mark.parametrize("layout", ["binary", "struct", "path_only", "image", "wrong_caption"])
def test_every_layout_of_parquet_is_read(tmp_path, layout, monkeypatch):
    datasets = pytest.importorskip("datasets")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_files(tmp_path, {"set/a.png": PNG})
    cells = {
        "binary": [PNG],
        "struct": [{"bytes": PNG, "path": "x.png"}],
        "path_only": [{"bytes": None, "path": "a.png"}],
        "image": [{"bytes": PNG, "path": None}],
        "wrong_caption": [PNG],
    }
    captions = [3] if layout == "wrong_caption" else ["a cat"]
    table = pa.table({"image": pa.array(cells[layout]), "text": captions})
    path = tmp_path / "set" / "train-0.parquet"
    if layout == "image":
        datasets.Dataset(table).cast_column("image", datasets.Image(decode=False)).to_parquet(str(path))
    elif layout == "path_only":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(pa.table({"image": pa.array(cells[layout], kind), "text": captions}), path)
    else:
        pq.write_table(table, path)
    if layout == "wrong_caption":
        with pytest.raises(DianjingError, match=r"train-0\.parquet:1: text is 3"):
            list_path(path)
        return
    (record,) = list_path(path).records
    assert (record.text_en, record.source.read()) == ("a cat", PNG)


def test_a_saved_dict_of_splits_is_read_or_its_splits_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": PNG, "path": None}, "text": "a cat"}]
    split = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": split}).save_to_disk(str(tmp_path / "one"))
    assert [record.text_en for record in list_path(tmp_path / "one").records] == ["a cat"]
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DianjingError, match="two/train, .*two/test"):
        list_path(tmp_path / "two")


@pytest.mark.parametrize("name", ["set.tar.gz", "set.TGZ", "set.7z", "set.rar"])
def test_compressed_archives_get_a_hint(tmp_path, name):
    write_tar(tmp_path / name, SAMPLE, mode="w:gz")
    with pytest.raises(DianjingError, match="unpack it"):
        list_path(tmp_path / name)
    write_files(tmp_path, SAMPLE)
    listing = list_path(tmp_path)
    assert (len(listing.records), list(listing.unused)) == (1, [name])


def test_a_damaged_or_locked_archive_is_named(tmp_path):
    path = write_zip(tmp_path / "a.zip", SAMPLE)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(DianjingError, match=r"a\.zip"):
        list_path(path)
    locked = bytearray(content)
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # set the encryption bit of every header
        start = -1
        while (start := locked.find(signature, start + 1)) >= 0:
            locked[start + flags] |= 1
    (tmp_path / "b.zip").write_bytes(locked)
    with pytest.raises(DianjingError, match=r"b\.zip!cat\.png.*encrypted"):
        list_path(tmp_path / "b.zip")


def test_links_to_folders_are_followed_once(tmp_path):
    write_files(tmp_path / "elsewhere", SAMPLE)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "circle").symlink_to(tmp_path / "set")
    assert get_captions(list_path(tmp_path / "set")) == {"link/cat.png": "a cat"}


def test_a_toml_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf[[datasets]]\npath = 'x'\n")
    assert read_dataset_configs(tmp_path / "a.toml")[0].path == tmp_path / "x"


def test_other_encodings_of_toml_are_named(tmp_path):
    (tmp_path / "a.toml").write_bytes("# 数据\n[a]\n".encode("gbk"))
    with pytest.raises(DianjingError, match="GBK"):
        read_toml(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_bytes("[a]\n".encode("utf-16"))
    with pytest.raises(DianjingError, match="UTF-16"):
        read_toml(tmp_path / "a.toml")


@pytest.mark.parametrize("path", [r"D:\pictures\cats", r"D:\new\temp", r"C:\Users\me"])
def test_windows_paths_in_toml_get_a_hint(tmp_path, path):
    (tmp_path / "a.toml").write_text(f'[[datasets]]\npath = "{path}"\n')
    with pytest.raises(DianjingError, match="single quotes or with forward slashes"):
        read_dataset_configs(tmp_path / "a.toml")
