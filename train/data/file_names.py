"""Files of a data set by name: junk is passed over, and the files of one sample are grouped by what they share.

cat.png, cat.txt, cat.zh.txt and cat.mask.png are one group; so are a.v2.png and a.v2.txt. The case of suffixes does not
matter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath

from dianjing.errors import Message
from dianjing.pipelines.media.video_reading import VIDEO_EXTENSIONS
from dianjing.train.data.samples import Reason

# .heic and .heif are opened like the others, and refused by name if that fails
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif")
SAMPLE_SUFFIXES = IMAGE_SUFFIXES + VIDEO_EXTENSIONS  # animated WebP and GIF are recognized when they are opened
CAPTION_SUFFIXES = {".zh.txt": "text_zh", ".en.txt": "text_en"}
PLAIN_CAPTION_SUFFIXES = (".txt", ".caption")  # a caption in either language; the first that is not empty
MOTION_SUFFIXES = {".motion.zh.txt": "motion_zh", ".motion.en.txt": "motion_en"}  # how the masked region moves
TEXT_SUFFIXES = (*CAPTION_SUFFIXES, *PLAIN_CAPTION_SUFFIXES, *MOTION_SUFFIXES, ".json")
SIDECARS = {  # further images, before an image's suffix
    "mask": (".mask", "-masklabel"),
    "first_frame": (".first",),
    "control_image": (".control",),
}
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")  # tables of the image folders of `datasets`
COMPRESSED_SUFFIXES = (".gz", ".tgz", ".bz2", ".tbz", ".xz", ".txz", ".zst", ".7z", ".rar")
UNREADABLE_SUFFIXES = (  # images and videos that are not read
    *(".svg", ".svgz", ".eps", ".ai", ".psd", ".psb", ".xcf", ".kra", ".clip", ".sai"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".jxl", ".jp2", ".exr", ".hdr", ".tga", ".ppm"),
    *(".wmv", ".flv", ".m4v", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts", ".ogv"),
)
JUNK_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "@recycle"}
JUNK_NAMES |= {"$recycle.bin", "system volume information", "lost+found", "@recently-snapshot"}


def is_junk_name(name: str) -> bool:
    """True for a file or folder that an operating system or program made for itself, and for hidden ones."""
    return name.startswith(".") or name.lower() in JUNK_NAMES


def is_junk_path(path: PurePath) -> bool:
    """True if any part of a relative path is junk."""
    return any(is_junk_name(part) for part in path.parts)


@dataclass
class FileGroup:
    """The names of the files that belong together."""

    samples: list[str] = field(default_factory=list)  # images and videos
    texts: dict[str, str] = field(default_factory=dict)  # by suffix in lower case
    sidecars: dict[str, str] = field(default_factory=dict)  # by the keys of SIDECARS


@dataclass
class FileGroups:
    """The groups of a data set by their key (folder and common name), its tables, and unreadable files by name."""

    groups: dict[str, FileGroup] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    rejected: dict[str, Reason] = field(default_factory=dict)
    unused: dict[str, Reason] = field(default_factory=dict)


def group_files(names: Iterable[str], *, caption_suffix: str | None = None) -> FileGroups:
    """Group relative names with forward slashes; `caption_suffix` is a further suffix of captions."""
    result = FileGroups()
    text_suffixes = (caption_suffix.lower(), *TEXT_SUFFIXES) if caption_suffix else TEXT_SUFFIXES
    endings = _list_endings(text_suffixes)
    for name in sorted(names):
        path = PurePosixPath(name)
        if is_junk_path(path):
            continue
        lower = path.name.lower()
        ending = next((ending for ending in endings if lower.endswith(ending) and lower != ending), None)
        if lower in METADATA_NAMES:
            result.tables.append(name)
        elif ending is not None:
            group = result.groups.setdefault(name[: -len(ending)], FileGroup())
            if ending in text_suffixes:
                group.texts[ending] = name
            elif endings[ending]:
                group.sidecars[endings[ending]] = name
            else:
                group.samples.append(name)
        elif lower.endswith(UNREADABLE_SUFFIXES):
            result.rejected[name] = Message("sample_kind_unreadable", suffix=path.suffix.lower())
        elif lower.endswith(COMPRESSED_SUFFIXES):
            result.unused[name] = Message("archive_compressed")
    _find_orphans(result)
    return result


def _list_endings(text_suffixes: Sequence[str]) -> Mapping[str, str]:
    """All known endings of file names, the longest first, with the key of SIDECARS that they stand for."""
    endings = dict.fromkeys((*text_suffixes, *SAMPLE_SUFFIXES), "")
    for key, parts in SIDECARS.items():
        endings |= {part + suffix: key for part in parts for suffix in IMAGE_SUFFIXES}
    return dict(sorted(endings.items(), key=lambda item: -len(item[0])))


def _find_orphans(result: FileGroups) -> None:
    """Move the files of groups without an image or video to `unused`."""
    for key, group in list(result.groups.items()):
        if not group.samples:
            del result.groups[key]
            names = [name for suffix, name in group.texts.items() if suffix != ".json"]
            for name in (*names, *group.sidecars.values()):
                result.unused[name] = Message("sample_of_file_missing", name=PurePosixPath(key).name)
