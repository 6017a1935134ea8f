"""Rename tensors of a safetensors file by the `tensor` lines of dit.map: the header changes, the data stays in place.

    python tools/rename/rename_tensors.py FILE
"""

import json
import re
import sys
from pathlib import Path

MAP = Path(__file__).with_name("dit.map")


def read_map() -> dict[str, str]:
    """Prefixes of old names and of new ones, one to one."""
    lines = re.findall(r"^tensor (\S+) -> (\S+)$", MAP.read_text(encoding="utf-8"), re.MULTILINE)
    prefixes = dict(lines)
    assert len(prefixes) == len(lines) == len(set(prefixes.values())), "the map is not one to one"
    return prefixes


def rename(name: str, prefixes: dict[str, str]) -> str:
    matches = [old for old in prefixes if name == old or (old.endswith(".") and name.startswith(old))]
    assert len(matches) <= 1, f"{name} is renamed by {matches}"
    return prefixes[matches[0]] + name.removeprefix(matches[0]) if matches else name


def rename_file(path: Path) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, prefixes = json.loads(content[8 : 8 + length]), read_map()
    renamed = {rename(name, prefixes): entry for name, entry in header.items()}
    assert len(renamed) == len(header), "two tensors would have one name"
    assert not [name for name in renamed if name.startswith("click.")], "a name is not in the map"
    raw = json.dumps(renamed, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + length :])
    changed = sum(old != new for old, new in zip(header, renamed, strict=True))
    print(f"{path}: {changed} of {len(header) - ('__metadata__' in header)} tensors renamed")


if __name__ == "__main__":
    rename_file(Path(sys.argv[1]))
