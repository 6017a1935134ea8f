"""Pictures that turn out unreadable while a run goes on: left out, written down, and counted over all its processes."""

import json
import sys
from pathlib import Path

SKIP_LOG_FILE = "skipped.jsonl"
MAX_LISTED = 20


class SkipLog:
    """A file of the run's folder that its processes and data workers share, one line a picture.

    limit: pictures that may be left out; one more stops the run.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.path, self.limit = folder / SKIP_LOG_FILE, limit

    def reset(self) -> None:
        """Forget those of an earlier start: what was mended since may take part again."""
        self.path.unlink(missing_ok=True)

    def read_reasons(self) -> dict[str, str]:
        """With the reasons."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return {line["name"]: line["reason"] for line in map(json.loads, lines)}

    def add(self, name: str, reason: str) -> None:
        """Raises: ValueError that names them all, where they are too many."""
        if name not in self.read_reasons():
            with self.path.open("a", encoding="utf-8") as file:  # so short a line is appended whole
                file.write(json.dumps({"name": name, "reason": reason}, ensure_ascii=False) + "\n")
            print(f"left out: {name}: {reason}", file=sys.stderr, flush=True)
        found = self.read_reasons()
        if len(found) > self.limit:
            lines = "".join(f"\n  {name}: {why}" for name, why in list(found.items())[:MAX_LISTED])
            raise ValueError(
                f"{len(found)} pictures could not be read during the run; data.max_rejected_fraction allows {self.limit}. "
                f"Mend or remove them, or raise the limit:{lines}"
            )
