"""Tables name images and captions; what is wrong is named by row."""

import json

import pytest

from dianjing.errors import DianjingError
from dianjing.train.data.samples import TableCell
from tests.train.dataset_files import PNG, get_captions, list_path, write_files


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
    with pytest.raises(DianjingError, match=r"two/train, .*two/test"):
        list_path(tmp_path / "two")


def test_a_cell_that_names_a_file_outside_the_folder_of_the_table_is_not_read(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "data"
    folder.mkdir()
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        cell = TableCell([{"image": {"bytes": None, "path": path}}], 0, "image", folder)
        with pytest.raises(OSError, match="outside"):
            cell.read()
