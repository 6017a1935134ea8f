"""Data sets as other programs leave them: junk, encodings, cases of letters, orphans and archives."""

import pytest

from dianjing.errors import DianjingError
from dianjing.train.data.inspect import inspect_records
from tests.train.dataset_files import (
    PNG,
    SAMPLE,
    get_captions,
    list_path,
    make_png,
    write_files,
    write_set,
    write_tar,
    write_zip,
)

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


LAYOUTS = pytest.mark.parametrize("layout", ["folder", "tar", "zip"])


@LAYOUTS
def test_junk_is_passed_over_and_not_counted(tmp_path, layout):
    listing = list_path(write_set(tmp_path, JUNK | SAMPLE, layout))
    assert get_captions(listing) == {"cat.png": "a cat"}
    assert listing.rejected == listing.unused == {}
    assert listing.records[0].source.read() == PNG


def test_a_hidden_folder_may_be_the_data_set_itself(tmp_path):
    assert list_path(write_files(tmp_path / ".data" / "__macosx", SAMPLE)).records


def test_junk_next_to_shards_is_no_shard(tmp_path):
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
