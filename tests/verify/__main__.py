"""Make the records: `python -m tests.verify [NAME ...]`, or `python3 run.py verify [NAME ...]`."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.machine import describe_machine
from tests.verify.records import RECORDED, RECORDS, ROOT, Record, find_failures, get_commit, hash_content


def make_record(record: Record) -> list[str]:
    """Run a measurement and write its result; returns what it fails.

    Raises: CalledProcessError where the command itself fails.
    """
    content_hash, commit, start = hash_content(record), get_commit(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [part.replace("{out}", folder) for part in record.command]
        print(f"{record.name}: python {' '.join(record.command)}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, file=sys.stderr)
        figures = record.read(Path(folder), done.stdout)
    if done.returncode and not find_failures(record, figures):
        raise subprocess.CalledProcessError(done.returncode, command)
    result = {
        "command": f"python {' '.join(record.command)}",
        "commit": commit,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": describe_machine("cpu"),
        "seconds": round(time.monotonic() - start),
        "content_hash": content_hash,
        "figures": figures,
    }
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{record.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return find_failures(record, figures)


def run_slow_tests() -> list[str]:
    """Run the tests that are marked slow; returns what failed."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-p", "no:xdist"]
    return ["slow tests failed, see above"] if subprocess.call(command, cwd=ROOT) else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 run.py verify", description=__doc__)
    names = [record.name for record in RECORDED]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)} (default: all, and slow tests)")
    arguments = parser.parse_args()
    chosen = arguments.names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"there is no record {', '.join(sorted(unknown))}; the records are {', '.join(names)}")
    failures = [failure for record in RECORDED if record.name in chosen for failure in make_record(record)]
    if not arguments.names:
        failures += run_slow_tests()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
