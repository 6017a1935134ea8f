"""Load test of the server: many clients request images over HTTP at once.

    python -m benchmarks.server_load --clients 50 --seconds 120

Every client has its own key and prompts, and each response must be for its own request. Some clients disconnect before
the response. The server runs in its own process, whose memory is sampled.
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

WARMUP_S = 60  # the baseline of the memory is taken after it
DISCONNECT_INTERVAL = 25  # one of so many requests disconnects early
DISCONNECT_AFTER_S = 5.0  # while it is queued or sampling
TIMEOUT_S = 600
MAX_MEMORY_GROWTH = 0.1


@dataclass
class RequestCounts:
    """Counts of the clients so far; latencies_s are seconds from a request to its image."""

    latencies_s: list[float] = field(default_factory=list)
    lost_requests: int = 0
    wrong_responses: int = 0
    disconnected: int = 0
    rejected: int = 0
    failures: Counter = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class ServerLoadReport:
    """Result of a load test; memory in MiB after the warm-up, at the end, and at most."""

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
        """Violations of what the server guarantees, one line each."""
        lines = [
            f"{name}: {value}"
            for name, value in (("lost", self.lost_requests), ("wrong owner", self.wrong_responses))
            if value
        ]
        lines += [f"{name}: {count}" for name, count in self.failures.items()]
        if self.memory_growth > MAX_MEMORY_GROWTH:
            lines.append(f"memory grew by {self.memory_growth:.1%} after the first minute")
        return lines


async def request_image(client: httpx.AsyncClient, client_id: int, request_id: int, counts: RequestCounts) -> None:
    """Request one image for one client, and check that its metadata are those of the request."""
    seed, prompt = 1_000_000 * client_id + request_id, f"a cat on the grass {client_id}"
    body = {"prompt": prompt, "seed": seed, "num_inference_steps": 4}
    start_s = time.monotonic()
    response = await client.post("/v1/images/generations", json=body)
    if response.status_code == 429:
        counts.rejected += 1
        await asyncio.sleep(1)
        return
    if response.status_code != 200:
        counts.failures[f"status {response.status_code}"] += 1
        return
    counts.latencies_s.append(time.monotonic() - start_s)
    [item] = response.json()["data"]
    with Image.open(io.BytesIO(base64.b64decode(item["b64_json"])), formats=("PNG",)) as image:
        image.load()
        if (image.text["prompt"], image.text["seed"]) != (prompt, str(seed)):  # type: ignore[attr-defined]
            counts.wrong_responses += 1


async def run_client(address: str, client_id: int, until_s: float, counts: RequestCounts) -> None:
    """Send the requests of one client, one after the other, until the time is over."""
    headers = {"Authorization": f"Bearer client-{client_id}-{secrets.token_hex(4)}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=TIMEOUT_S) as client:
        request_id = 0
        while time.monotonic() < until_s:
            request_id += 1
            try:
                if (client_id + request_id) % DISCONNECT_INTERVAL == 0:
                    await disconnect_early(client, counts)
                else:
                    await request_image(client, client_id, request_id, counts)
            except httpx.HTTPError as error:
                counts.lost_requests += 1
                counts.failures[type(error).__name__] += 1


async def disconnect_early(client: httpx.AsyncClient, counts: RequestCounts) -> None:
    """Request an image of many steps, and disconnect."""
    counts.disconnected += 1
    body = {"prompt": "a dog", "num_inference_steps": 1000}
    try:
        await asyncio.wait_for(client.post("/v1/images/generations", json=body), DISCONNECT_AFTER_S)
    except (asyncio.TimeoutError, httpx.HTTPError):
        return


async def sample_memory(process: psutil.Process, until_s: float) -> list[tuple[float, float]]:
    """Sample (seconds, MiB) of the server's unique set size, once a second."""
    start_s, samples = time.monotonic(), []
    while time.monotonic() < until_s:
        samples.append((time.monotonic() - start_s, process.memory_full_info().uss / 2**20))
        await asyncio.sleep(1)
    return samples


def start_server(model: str, log_path: Path) -> tuple[subprocess.Popen, str]:
    """Start `dianjing demo` on a random port; return its process and its address once it responds."""
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
    raise SystemExit("the server does not respond")


def count_cancelled(metrics: str) -> int:
    """Return the number of requests that the server cancelled, from its metrics."""
    lines = [
        line for line in metrics.splitlines() if line.startswith("dianjing_requests_total") and "cancelled" in line
    ]
    return sum(int(float(line.split()[-1])) for line in lines)


async def measure_server_load(
    address: str, process: psutil.Process, *, num_clients: int, duration_s: float
) -> ServerLoadReport:
    """Run the clients against a server for `duration_s` and return the report."""
    counts, until_s = RequestCounts(), time.monotonic() + duration_s
    *_, memory = await asyncio.gather(
        *(run_client(address, number, until_s, counts) for number in range(num_clients)),
        sample_memory(process, until_s),
    )
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        metrics = (await client.get(f"{address}/metrics")).text
    after_warmup = [mib for second, mib in memory if second >= min(WARMUP_S, duration_s / 2)]
    latencies_s = sorted(counts.latencies_s)
    return ServerLoadReport(
        num_clients=num_clients,
        duration_s=duration_s,
        num_images=len(latencies_s),
        lost_requests=counts.lost_requests,
        wrong_responses=counts.wrong_responses,
        disconnected=counts.disconnected,
        rejected=counts.rejected,
        failures=dict(counts.failures),
        latency_median_s=latencies_s[len(latencies_s) // 2],
        latency_p95_s=latencies_s[int(len(latencies_s) * 0.95)],
        memory_start_mib=after_warmup[0],
        memory_end_mib=after_warmup[-1],
        memory_max_mib=max(after_warmup),
        cancelled_by_server=count_cancelled(metrics),
        load_average=os.getloadavg(),
    )


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server_load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--model", default="sticker")
    parser.add_argument("--log", type=Path, help="the server's log; default: a temporary file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run_server_load(arguments, arguments.log or Path(folder) / "server.log")


def run_server_load(arguments: argparse.Namespace, log_path: Path) -> int:
    """Start the server, measure, stop it, print the report; return the exit code."""
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
    content = {**asdict(report), "memory_growth": round(report.memory_growth, 4), "server_exit_code": code}
    print(json.dumps(content, indent=1))
    for violation in report.violations:
        print(f"violation: {violation}", file=sys.stderr)
    return 1 if report.violations or code else 0


if __name__ == "__main__":
    sys.exit(_main())
