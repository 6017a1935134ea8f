"""gpu_once in an environment with only the packages of its machine: minutes, and gigabytes the first time.

Run by `python3 run.py verify`. The environment is created once, in .venv-gpu-once of the checkout.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from diffusers import AutoencoderKL

from dianjing import TextToImagePipeline
from dianjing.train.recipes.gpu_once_stages import GPU_STAGES, MODEL_STAGES
from dianjing.train.recipes.packing import unpack_folder
from tests.train.recipes.test_gpu_once import check_files, load_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[3]
MACHINE = Path(__file__).with_name("machine.txt")
WHEELS = ROOT / "train" / "recipes" / "gpu_once_wheels.txt"
VENV = ROOT / ".venv-gpu-once"
MINUTES = 1.0
MAX_TREE_BYTES = 60 * 2**20  # of everything that is carried
OVERRUN_S = 15.0  # installation of the wheels, the end of a step, and the last pack


def find_python() -> str:
    """Find a Python 3.12 that can create virtual environments; fail the test if there is none."""
    candidates = [shutil.which("python3.12"), sys.executable]
    if uv := shutil.which("uv"):
        output = subprocess.run([uv, "python", "find", "3.12"], capture_output=True, text=True).stdout
        candidates.append(output.strip() or None)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += map(str, pyenv.glob("versions/3.12*/bin/python"))
    check = "import sys, venv, ensurepip; raise SystemExit(sys.version_info[:2] != (3, 12))"
    for python in filter(None, candidates):
        if subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
            return python
    pytest.fail("no Python 3.12 with venv on PATH, in uv or in pyenv; this test needs one: install it")


def run_pip(*arguments: str | Path) -> None:
    command = [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"the environment cannot be created: pip {arguments[0]} failed:\n{done.stderr[-2000:]}")


@pytest.fixture(scope="session")
def machine() -> dict[str, str]:
    """The environment variables of a shell on that machine, with its packages and nothing else."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.fail("gpu_once is made for Linux x86-64; this test has to run on such a machine")
    digest = hashlib.sha256(MACHINE.read_bytes() + WHEELS.read_bytes()).hexdigest()
    stamp = VENV / "gpu-once.sha256"
    if not stamp.exists() or stamp.read_text() != digest:
        subprocess.run([find_python(), "-m", "venv", "--clear", str(VENV)], check=True)
        run_pip("install", "-r", MACHINE)
        names = [line.split("==")[0] for line in WHEELS.read_text().splitlines() if not line.startswith("#")]
        run_pip("uninstall", "-y", *names)  # dependencies that the machine lacks
        shutil.rmtree(VENV / "wheels", ignore_errors=True)
        run_pip("download", "--no-deps", "--only-binary", ":all:", "-d", VENV / "wheels", "-r", WHEELS)
        stamp.write_text(digest)
    inherited = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ}
    path = f"{VENV / 'bin'}:{os.environ['PATH']}"
    return {**inherited, "PATH": path, "WHEELS": str(VENV / "wheels"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def checkout(machine, tmp_path_factory) -> Path:
    """A copy of everything that is carried: tracked files and new ones that are not ignored, links as links."""
    target = tmp_path_factory.mktemp("machine") / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def start_gpu_once(checkout: Path, machine: dict[str, str], out: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["sh", "train/recipes/gpu_once.sh", "--tiny", "--work", str(out.with_name("work")), *arguments],
        cwd=checkout,
        env={**machine, "OUT": str(out)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_environment_lacks_what_the_machine_lacks(machine):
    code = "import importlib.util as u; print([n for n in %r if u.find_spec(n)])"
    absent = ["diffusers", "pydantic", "pydantic_core", "importlib_metadata", "av", "gradio", "fastapi", "pytest"]
    python = VENV / "bin" / "python"
    done = subprocess.run([python, "-c", code % absent], env=machine, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_that_is_carried_is_within_the_bound(checkout, machine):
    files = [path for path in checkout.rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if not any(parent.is_symlink() for parent in path.parents)]
    total = sum(path.stat().st_size for path in (*files, *Path(machine["WHEELS"]).glob("*.whl")))
    print(f"checkout and wheels: {total / 2**20:.1f} MiB")
    assert total <= MAX_TREE_BYTES


def test_all_stages_end_in_their_time_and_the_bundle_loads(checkout, machine, tmp_path):
    started = time.perf_counter()
    process = start_gpu_once(checkout, machine, tmp_path / "out", "--minutes", str(MINUTES))
    output, _ = process.communicate(timeout=600)
    seconds = time.perf_counter() - started
    assert process.returncode == 0, output[-3000:]
    stages = json.loads((tmp_path / "out" / "run.json").read_text())["stages"]
    print(f"{seconds:.1f} s\n{json.dumps(stages, indent=1)}")
    assert list(stages) == [stage.name for stage in GPU_STAGES]
    assert seconds <= 60 * MINUTES + OVERRUN_S
    for name, figures in stages.items():
        assert "error" not in figures, name
        if name != "evaluation":
            assert figures["steps"] >= 1, name
    check_files(tmp_path / "out")
    unpack_folder(tmp_path / "out", tmp_path / "bundle")
    load_all(tmp_path / "bundle")


@pytest.mark.parametrize("index", range(len(GPU_STAGES)), ids=[stage.name for stage in GPU_STAGES])
def test_earlier_stages_are_usable_after_a_kill(checkout, machine, tmp_path, index):
    """The process is killed a second after the stage starts."""
    out, name = tmp_path / "out", GPU_STAGES[index].name
    process = start_gpu_once(checkout, machine, out, "--minutes", str(MINUTES / 2))
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(f"{name}: ") and line.endswith(" s\n"):
            time.sleep(1.0)
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert any(line.startswith(f"{name}: ") for line in lines), "".join(lines)[-3000:]
    if index == 0:
        assert not (out / "bundle.json").exists()
        return
    check_files(out)
    unpack_folder(out, tmp_path / "bundle")
    if GPU_STAGES[index - 1].name not in (*MODEL_STAGES, "segmenter"):
        AutoencoderKL.from_pretrained(tmp_path / "bundle" / "vae")
    elif index > 2:
        load_all(tmp_path / "bundle")
    else:
        TextToImagePipeline.from_pretrained(tmp_path / "bundle")
