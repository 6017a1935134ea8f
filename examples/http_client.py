"""Request an image and a video from a running server, which has the HTTP API of OpenAI.

dianjing demo --port 7860
python examples/http_client.py --address http://127.0.0.1:7860 --out images
"""

import argparse
import base64
import time
from pathlib import Path

import httpx


def download_image(client: httpx.Client, path: Path) -> None:
    """Request an image; the response holds it in base64."""
    response = client.post("/v1/images/generations", json={"prompt": "a cat on the grass", "seed": 7})
    response.raise_for_status()
    path.write_bytes(base64.b64decode(response.json()["data"][0]["b64_json"]))


def download_video(client: httpx.Client, path: Path) -> None:
    """Start a job for a video, wait for it and download the video."""
    response = client.post("/v1/videos", json={"prompt": "a cat jumps on the grass", "seconds": "1", "seed": 7})
    response.raise_for_status()
    job = response.json()
    while job["status"] in ("queued", "in_progress"):
        time.sleep(0.5)
        job = client.get(f"/v1/videos/{job['id']}").raise_for_status().json()
    if job["status"] != "completed":
        raise SystemExit(f"the job {job['status']}: {job['error']}")
    path.write_bytes(client.get(f"/v1/videos/{job['id']}/content").raise_for_status().content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="http://127.0.0.1:7860")
    parser.add_argument("--key", help="a bearer key, if the server needs one")
    parser.add_argument("--out", type=Path, default=Path("images"))
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)

    headers = {"Authorization": f"Bearer {arguments.key}"} if arguments.key else {}
    with httpx.Client(base_url=arguments.address, headers=headers, timeout=300) as client:
        download_image(client, arguments.out / "cat.png")
        download_video(client, arguments.out / "cat.mp4")
    print(arguments.out)


if __name__ == "__main__":
    main()
