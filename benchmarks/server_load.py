"""`python -m benchmarks.server_load`: many clients at once ask one server for pictures, over HTTP as programs do.

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

WARMUP_S = 60  # memory is compared with what it was then
DISCONNECT_INTERVAL = 25  # requests
DISCONNECT_AFTER_S = 5.0  # in the queue, or in the middle of its thousand steps
TIMEOUT_S = 600


@dataclass
class RequestCounts:
    """waits are seconds from a request to its picture."""

    latencies_s: list[float] = field(default_factory=list)
    lost_requests: int = 0
    wrong_responses: int = 0
    disconnected: int = 0
    rejected: int = 0
    failures: Counter = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class ServerLoadReport:
    """Memory in MiB: when it had settled, at the end, and the most that was seen between."""

    num_clients: int
    duration_s: float
    num_images: int
    lost_requests: int
    wrong_responses: int
    disconnected: int
    rejected: int
    failures: dict[str, int]
    latency_median_s: float
    latency_p95_s: float
    memory_start_mib: float
    memory_end_mib: float
    memory_max_mib: float
    cancelled_by_server: int
    load_average: tuple[float, float, float]

    @property
    def memory_growth(self) -> float:
        return self.memory_max_mib / self.memory_start_mib - 1

    @property
    def violations(self) -> list[str]:
        """What must not be."""
        found = [
            f"{name}: {value}"
            for name, value in (("lost", self.lost_requests), ("wrong owner", self.wrong_responses))
            if value
        ]
        found += [f"{name}: {count}" for name, count in self.failures.items()]
        if self.memory_growth > 0.1:
            found.append(f"memory grew by {self.memory_growth:.1%} after the first minute")
        return found


async def request_image(client: httpx.AsyncClient, client_id: int, request_id: int, counts: RequestCounts) -> None:
    """One picture for one client; what it says inside must be what this client asked for."""
    seed, prompt = 1_000_000 * client_id + request_id, f"a cat on the grass {client_id}"
    body = {"prompt": prompt, "seed": seed, "num_inference_steps": 4}
    began_s = time.monotonic()
    answer = await client.post("/v1/images/generations", json=body)
    if answer.status_code == 429:
        counts.rejected += 1
        await asyncio.sleep(1)
        return
    if answer.status_code != 200:
        counts.failures[f"status {answer.status_code}"] += 1
        return
    counts.latencies_s.append(time.monotonic() - began_s)
    [picture] = answer.json()["data"]
    with Image.open(io.BytesIO(base64.b64decode(picture["b64_json"])), formats=("PNG",)) as image:
        image.load()
        if (image.text["prompt"], image.text["seed"]) != (prompt, str(seed)):  # type: ignore[attr-defined]
            counts.wrong_responses += 1


async def run_client(address: str, client_id: int, until_s: float, counts: RequestCounts) -> None:
    headers = {"Authorization": f"Bearer client-{client_id}-{secrets.token_hex(4)}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=TIMEOUT_S) as client:
        turn = 0
        while time.monotonic() < until_s:
            turn += 1
            try:
                if (client_id + turn) % DISCONNECT_INTERVAL == 0:
                    await disconnect_early(client, counts)
                else:
                    await request_image(client, client_id, turn, counts)
            except httpx.HTTPError as error:
                counts.lost_requests += 1
                counts.failures[type(error).__name__] += 1


async def disconnect_early(client: httpx.AsyncClient, counts: RequestCounts) -> None:
    """Ask for much, and leave."""
    counts.disconnected += 1
    body = {"prompt": "a dog", "num_inference_steps": 1000}
    try:
        await asyncio.wait_for(client.post("/v1/images/generations", json=body), DISCONNECT_AFTER_S)
    except (asyncio.TimeoutError, httpx.HTTPError):
        return


async def sample_memory(process: psutil.Process, until_s: float) -> list[tuple[float, float]]:
    """(seconds, MiB) of the server's own memory, once a second."""
    began_s, seen = time.monotonic(), []
    while time.monotonic() < until_s:
        seen.append((time.monotonic() - began_s, process.memory_full_info().uss / 2**20))
        await asyncio.sleep(1)
    return seen


def start_server(model: str, log_path: Path) -> tuple[subprocess.Popen, str]:
    """The command itself, on a free port; its address once it answers."""
    port = 20_000 + secrets.randbelow(20_000)
    command = [sys.executable, "-m", "dianjing", "demo", "--model", model, "--port", str(port), "--queue", "64"]
    with open(log_path, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise SystemExit(f"the server ended: {log_path.read_text()[-2000:]}")
        try:
            if httpx.get(f"{address}/healthz", timeout=TIMEOUT_S).status_code == 200:
                return process, address
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit("the server does not answer")


def count_cancelled(metrics: str) -> int:
    """How many requests the server gave up."""
    lines = [
        line for line in metrics.splitlines() if line.startswith("dianjing_requests_total") and "cancelled" in line
    ]
    return sum(int(float(line.split()[-1])) for line in lines)


async def measure_server_load(
    address: str, process: psutil.Process, *, num_clients: int, duration_s: float
) -> ServerLoadReport:
    tally, until_s = RequestCounts(), time.monotonic() + duration_s
    *_, memory = await asyncio.gather(
        *(run_client(address, number, until_s, tally) for number in range(num_clients)), sample_memory(process, until_s)
    )
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        metrics = (await client.get(f"{address}/metrics")).text
    settled = [mib for second, mib in memory if second >= min(WARMUP_S, duration_s / 2)]
    waits = sorted(tally.latencies_s)
    return ServerLoadReport(
        num_clients=num_clients,
        duration_s=duration_s,
        num_images=len(waits),
        lost_requests=tally.lost_requests,
        wrong_responses=tally.wrong_responses,
        disconnected=tally.disconnected,
        rejected=tally.rejected,
        failures=dict(tally.failures),
        latency_median_s=waits[len(waits) // 2],
        latency_p95_s=waits[int(len(waits) * 0.95)],
        memory_start_mib=settled[0],
        memory_end_mib=settled[-1],
        memory_max_mib=max(settled),
        cancelled_by_server=count_cancelled(metrics),
        load_average=os.getloadavg(),
    )


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--log", type=Path, help="What the server says; a temporary file if left out.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run_server_load(given, given.log or Path(folder) / "server.log")


def run_server_load(arguments: argparse.Namespace, log_path: Path) -> int:
    """Start, measure, stop, tell; the exit code."""
    process, address = start_server(arguments.model, log_path)
    try:
        report = asyncio.run(
            measure_server_load(
                address, psutil.Process(process.pid), num_clients=arguments.clients, duration_s=arguments.seconds
            )
        )
    finally:
        process.terminate()
        code = process.wait(60)
    shown = {**asdict(report), "memory_growth": round(report.memory_growth, 4), "server_exit_code": code}
    print(json.dumps(shown, indent=1))
    for fault in report.violations:
        print(f"must not be: {fault}", file=sys.stderr)
    return 1 if report.violations or code else 0


if __name__ == "__main__":
    sys.exit(_main())
