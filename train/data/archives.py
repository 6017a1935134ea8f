"""Listing of archives: WebDataset shards (tar) and zip files. Nothing is unpacked."""

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from dianjing.errors import Message
from dianjing.train.data.listing import DatasetListing, add_files
from dianjing.train.data.samples import ByteSource, TarMember, ZipMember

ARCHIVE_SUFFIXES = (".tar", ".zip")


def add_archive(listing: DatasetListing, archive: Path) -> None:
    """Add the samples of a tar or zip archive, or the reason why it cannot be read."""
    list_members = _list_zip_members if archive.suffix.lower() == ".zip" else _list_tar_members
    try:
        members = list_members(archive)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        listing.rejected[archive.name] = Message("archive_unreadable", reason=str(error))
        return
    add_files(listing, members, archive=archive.name)


def _list_tar_members(archive: Path) -> dict[str, ByteSource]:
    members: dict[str, ByteSource] = {}
    with tarfile.open(archive, "r:") as file:
        for info in file:
            if info.isfile() and _is_inside(info.name):
                members[_normalize(info.name)] = TarMember(archive, info.offset_data, info.size)
    return members


def _list_zip_members(archive: Path) -> dict[str, ByteSource]:
    with zipfile.ZipFile(archive) as file:
        names = [info.filename for info in file.infolist() if not info.is_dir() and _is_inside(info.filename)]
    return {_normalize(name): ZipMember(archive, name) for name in names}


def _is_inside(name: str) -> bool:
    """False for a member whose path leads out of the archive."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _normalize(name: str) -> str:
    """The name without "./", which tar writes for `tar -cf a.tar .`."""
    return str(PurePosixPath(name))
