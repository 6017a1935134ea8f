"""The record of samples that become unreadable during a run: skipped, listed, and counted over all processes."""

import json
import sys
from pathlib import Path

from dianjing.errors import DianjingError, Lines, Message, get_language

SKIP_LOG_FILE = "skipped.jsonl"
MAX_LISTED = 20  # samples in an error message


class SkipLog:
    """A file in the run's folder with one line per skipped sample, shared by all processes and data workers.

    At most `limit` samples may be skipped; one more ends the run.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self.path, self.limit = folder / SKIP_LOG_FILE, limit

    def reset(self) -> None:
        """Forget the samples of an earlier start, since they may have been repaired."""
        self.path.unlink(missing_ok=True)

    def read_reasons(self) -> dict[str, Message]:
        """Skipped samples by name, with the reasons."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return {line["name"]: Message(line["message_id"], **line["arguments"]) for line in map(json.loads, lines)}

    def add(self, name: str, reason: DianjingError) -> None:
        """Record a skipped sample. Raises: DianjingError with the names of all of them if there are too many."""
        if name not in self.read_reasons():
            arguments = {key: str(value) for key, value in reason.arguments.items()}
            record = {"name": name, "reason": str(reason), "message_id": reason.message_id, "arguments": arguments}
            with self.path.open("a", encoding="utf-8") as file:  # one short write: lines of processes do not mix
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            line = Message("sample_skipped", name=name, reason=reason)
            print(line.render(get_language()), file=sys.stderr, flush=True)
        reasons = self.read_reasons()
        if len(reasons) > self.limit:
            listed = list(reasons.items())[:MAX_LISTED]
            problems = Lines(Message("sample_problem", name=name, reason=why) for name, why in listed)
            raise DianjingError("too_many_skipped", count=len(reasons), limit=self.limit, problems=problems)
