"""A picture becomes a file: whole or not at all, with its settings and its label inside.

Settings are iTXt chunks (`prompt`, `seed`, `settings`, `model`, `version`). The label is the implicit
one of China's GB 45438-2025: a JSON `AIGC` in XMP.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

AIGC_NAMESPACE = "http://www.tc260.org.cn/ns/AIGC/1.0/"
XMP_KEY = "XML:com.adobe.xmp"
PRODUCER = "Dianjing"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:TC260="{namespace}"><TC260:AIGC>{label}</TC260:AIGC></rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What made a picture: enough to make it again."""

    prompt: str
    seed: int
    settings: dict[str, object]
    model: str
    version: str


def run_settings(pipe: Any) -> dict[str, object]:
    """What a pipeline's last call was done with, as the pipeline tells it: the defaults are the model's own."""
    return {
        "num_inference_steps": pipe.num_timesteps,
        "guidance_scale": pipe.guidance_scale,
        "scheduler": type(pipe.scheduler).__name__,
        "device": str(pipe.device.type),
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }


def to_texts(record: Record) -> dict[str, str]:
    """What a file holds of a record, key by key."""
    return {
        "prompt": record.prompt,
        "seed": str(record.seed),
        "settings": json.dumps(record.settings, ensure_ascii=False, sort_keys=True),
        "model": record.model,
        "version": record.version,
    }


def from_texts(texts: Mapping[str, str]) -> Record:
    """The inverse of `to_texts`. Raises KeyError, ValueError or TypeError."""
    return Record(
        prompt=texts["prompt"],
        seed=int(texts["seed"]),
        settings=dict(json.loads(texts["settings"])),
        model=texts["model"],
        version=texts["version"],
    )


def check_output(path: str | Path, *, endings: Sequence[str] = (".png",)) -> Path:
    """Return the path if a file of one of the endings can be written there; raise before anything is generated."""
    path = Path(path)
    try:
        if path.suffix.lower() not in endings:
            raise ValueError(f"{path} does not end in {', '.join(endings)}; choose a name that does")
        if path.is_symlink():
            raise ValueError(f"{path} is a symbolic link; name the file it points to")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it")
        check_folder_is_writable(path.parent)
    except OSError as error:  # a name too long, a loop of links
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
    return path


def check_folder_is_writable(folder: Path) -> None:
    if not folder.exists():
        raise ValueError(f"the folder {folder} does not exist; make it first or choose another")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"the folder {folder} is read-only for you; choose another place")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` at the end: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write through `whole_file`."""
    with whole_file(path) as temporary, open(temporary, "xb") as file:
        write(file)


def make_label(content: bytes, *, producer: str) -> dict[str, str]:
    """The fields of GB 45438-2025; the number of the product follows from its content."""
    return {
        "Label": "1",  # 1: made by AI
        "ContentProducer": producer,
        "ProduceID": hashlib.sha256(content).hexdigest()[:32],
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }


def label_of(image: Image.Image, record: Record, *, producer: str) -> dict[str, str]:
    """The label of a picture."""
    return make_label(repr((image.size, image.mode, record)).encode() + image.tobytes(), producer=producer)


def label_text(label: dict[str, str]) -> str:
    return json.dumps(label, ensure_ascii=False, separators=(",", ":"))


def xmp_packet(label: dict[str, str]) -> str:
    return XMP.format(namespace=AIGC_NAMESPACE, label=escape(label_text(label)))


def save_picture(
    image: Image.Image,
    path: Path,
    record: Record,
    *,
    label: dict[str, str] | None,
) -> None:
    """Write a PNG with its record, and with its implicit label unless `label` is None."""
    info = PngInfo()
    for key, text in to_texts(record).items():
        info.add_itxt(key, text)
    if label is not None:
        info.add_itxt(XMP_KEY, xmp_packet(label))
    write_whole(path, lambda file: image.save(file, format="PNG", pnginfo=info))


def read_settings(path: str | Path) -> Record:
    """Read back what made a picture.

    Raises: ValueError when the file is no PNG or was not made by Dianjing.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # text may also stand behind the pixels
            texts = getattr(image, "text", {})
        return from_texts(texts)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except KeyError as key:
        raise ValueError(f"{path} holds no {key}; it was not made by Dianjing, or another program removed it") from None
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a PNG made by Dianjing: {error}") from None
