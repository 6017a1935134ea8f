"""`python -m benchmarks.load`: many clients at once ask one server for pictures, over HTTP as programs do.

Every client has a key of its own and asks for pictures that only it asks for; what comes back must be its own. Now and
then one hangs up in the middle. The server runs in a process of its own, whose memory is watched.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import psutil
from PIL import Image

SETTLED_S = 60  # memory is compared with what it was then
HANG_UP_EVERY = 25  # requests
LEAVES_AFTER_S = 5.0  # in the queue, or in the middle of its thousand steps
PATIENCE_S = 600


@dataclass
class Tally:
    """waits are seconds from a request to its picture."""

    waits: list[float] = field(default_factory=list)
    lost: int = 0
    wrong_owner: int = 0
    hung_up: int = 0
    refused: int = 0
    failures: Counter = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Memory in MiB: when it had settled, at the end, and the most that was seen between."""

    clients: int
    seconds: float
    pictures: int
    lost: int
    wrong_owner: int
    hung_up: int
    refused: int
    failures: dict[str, int]
    wait_median_s: float
    wait_p95_s: float
    memory_settled_mib: float
    memory_end_mib: float
    memory_most_mib: float
    cancelled_by_server: int
    load: tuple[float, float, float]

    @property
    def memory_growth(self) -> float:
        return self.memory_most_mib / self.memory_settled_mib - 1

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        found = [
            f"{name}: {value}" for name, value in (("lost", self.lost), ("wrong owner", self.wrong_owner)) if value
        ]
        found += [f"{name}: {count}" for name, count in self.failures.items()]
        if self.memory_growth > 0.1:
            found.append(f"memory grew by {self.memory_growth:.1%} after the first minute")
        return found


async def ask(client: httpx.AsyncClient, number: int, turn: int, tally: Tally) -> None:
    """One picture for one client; what it says inside must be what this client asked for."""
    seed, prompt = 1_000_000 * number + turn, f"a cat on the grass {number}"
    body = {"prompt": prompt, "seed": seed, "num_inference_steps": 4}
    began_s = time.monotonic()
    answer = await client.post("/v1/images/generations", json=body)
    if answer.status_code == 429:
        tally.refused += 1
        await asyncio.sleep(1)
        return
    if answer.status_code != 200:
        tally.failures[f"status {answer.status_code}"] += 1
        return
    tally.waits.append(time.monotonic() - began_s)
    [picture] = answer.json()["data"]
    with Image.open(io.BytesIO(base64.b64decode(picture["b64_json"])), formats=("PNG",)) as image:
        image.load()
        if (image.text["prompt"], image.text["seed"]) != (prompt, str(seed)):  # type: ignore[attr-defined]
            tally.wrong_owner += 1


async def be_client(address: str, number: int, until_s: float, tally: Tally) -> None:
    headers = {"Authorization": f"Bearer client-{number}-{secrets.token_hex(4)}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=PATIENCE_S) as client:
        turn = 0
        while time.monotonic() < until_s:
            turn += 1
            try:
                if (number + turn) % HANG_UP_EVERY == 0:
                    await hang_up(client, tally)
                else:
                    await ask(client, number, turn, tally)
            except httpx.HTTPError as error:
                tally.lost += 1
                tally.failures[type(error).__name__] += 1


async def hang_up(client: httpx.AsyncClient, tally: Tally) -> None:
    """Ask for much, and leave."""
    tally.hung_up += 1
    body = {"prompt": "a dog", "num_inference_steps": 1000}
    try:
        await asyncio.wait_for(client.post("/v1/images/generations", json=body), LEAVES_AFTER_S)
    except (asyncio.TimeoutError, httpx.HTTPError):
        return


async def watch(process: psutil.Process, until_s: float) -> list[tuple[float, float]]:
    """(seconds, MiB) of the server's own memory, once a second."""
    began_s, seen = time.monotonic(), []
    while time.monotonic() < until_s:
        seen.append((time.monotonic() - began_s, process.memory_full_info().uss / 2**20))
        await asyncio.sleep(1)
    return seen


def start_server(model: str, log: Path) -> tuple[subprocess.Popen, str]:
    """The command itself, on a free port; its address once it answers."""
    port = 20_000 + secrets.randbelow(20_000)
    command = [sys.executable, "-m", "dianjing", "demo", "--model", model, "--port", str(port), "--queue", "64"]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise SystemExit(f"the server ended: {log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{address}/healthz", timeout=PATIENCE_S).status_code == 200:
                return process, address
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit("the server does not answer")


def cancelled(metrics: str) -> int:
    """How many requests the server gave up."""
    lines = [
        line for line in metrics.splitlines() if line.startswith("dianjing_requests_total") and "cancelled" in line
    ]
    return sum(int(float(line.split()[-1])) for line in lines)


async def measure(address: str, process: psutil.Process, *, clients: int, seconds: float) -> Report:
    tally, until_s = Tally(), time.monotonic() + seconds
    *_, memory = await asyncio.gather(
        *(be_client(address, number, until_s, tally) for number in range(clients)), watch(process, until_s)
    )
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        metrics = (await client.get(f"{address}/metrics")).text
    settled = [mib for second, mib in memory if second >= min(SETTLED_S, seconds / 2)]
    waits = sorted(tally.waits)
    return Report(
        clients=clients, seconds=seconds, pictures=len(waits), lost=tally.lost, wrong_owner=tally.wrong_owner,
        hung_up=tally.hung_up, refused=tally.refused, failures=dict(tally.failures),
        wait_median_s=waits[len(waits) // 2], wait_p95_s=waits[int(len(waits) * 0.95)],
        memory_settled_mib=settled[0], memory_end_mib=settled[-1], memory_most_mib=max(settled),
        cancelled_by_server=cancelled(metrics), load=os.getloadavg(),
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--log", type=Path, help="What the server says; a temporary file if left out.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(given, given.log or Path(folder) / "server.log")


def run(given: argparse.Namespace, log: Path) -> int:
    """Start, measure, stop, tell; the exit code."""
    process, address = start_server(given.model, log)
    try:
        report = asyncio.run(
            measure(address, psutil.Process(process.pid), clients=given.clients, seconds=given.seconds)
        )
    finally:
        process.terminate()
        code = process.wait(60)
    shown = {**asdict(report), "memory_growth": round(report.memory_growth, 4), "exit_code_of_the_server": code}
    print(json.dumps(shown, indent=1))
    for fault in report.faults:
        print(f"must not be: {fault}", file=sys.stderr)
    return 1 if report.faults or code else 0


if __name__ == "__main__":
    sys.exit(main())
