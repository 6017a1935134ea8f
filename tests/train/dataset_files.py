"""Helpers for tests of data sets: small files, folders and archives of them, and the captions of a listing."""

import io
import tarfile
import zipfile

from PIL import Image

from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.sources import list_dataset


def make_png(image_format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, format=image_format)
    return file.getvalue()


PNG = make_png()
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
