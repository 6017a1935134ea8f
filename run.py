#!/usr/bin/env python3
"""Set up .venv in this folder on a fresh machine, and run Dianjing in it.

    python3 run.py image "草地上的一只小猫"    any `dianjing` command
    python3 run.py test                        lint, types and tests
    python3 run.py test --fast                 lint and the quickest tests of every floor, in two minutes
    python3 run.py verify [NAME ...]           long measurements, whose results are committed (tests/verify)

The environment is created once, and again when setup.cfg changes. pip's own settings
(PIP_INDEX_URL, PIP_FIND_LINKS, a proxy ...) decide where packages come from.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
TORCH = "2.13.0"  # the newest version the tests have passed with

LINT = [["ruff", "check", "."], ["ruff", "format", "--check", "."]]
# the tests of a file share what they set up; tests/conftest.py puts the files in order
PYTEST = ["pytest", "--numprocesses", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "--durations", "25"]
CHECKS = [*LINT, ["mypy"], PYTEST]
FAST_CHECKS = [*LINT, [*PYTEST, "-m", "fast"]]


def report(text):
    """Print a line on stderr."""
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def stop(text):
    """Report an error and exit with 1."""
    report(text)
    raise SystemExit(1)


def pip_install(*arguments):
    """Run pip with its output on stderr, so that stdout belongs to the command; return True if it succeeds."""
    command = [BIN / "python", "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    return subprocess.call([str(part) for part in command], cwd=ROOT, stdout=sys.stderr) == 0


def make_venv():
    """Create .venv, or stop with advice."""
    has_venv = subprocess.call([sys.executable, "-m", "venv", str(VENV)], stdout=sys.stderr) == 0
    if not has_venv:
        stop(
            "python3 could not make a virtual environment (see above). "
            "On Debian and Ubuntu, `apt install python3-venv` brings the missing part."
        )


def install_torch():
    """Install PyTorch: a CPU build if there is no NVIDIA GPU and pip finds one."""
    if shutil.which("nvidia-smi"):
        return  # PyTorch's default build, which comes with the package, has CUDA
    if sys.platform == "linux":
        if pip_install(f"torch=={TORCH}+cpu"):
            return
        report(
            "pip finds no CPU build of PyTorch; PyTorch's default build for Linux follows, "
            "which brings several GB of CUDA libraries. To avoid that, stop here and set "
            "PIP_EXTRA_INDEX_URL to the CPU index named on PyTorch's installation page."
        )
    if not pip_install(f"torch=={TORCH}"):
        stop(f"PyTorch {TORCH} could not be installed (see above).")


def set_up(extras):
    """Create .venv and install the package there, unless it is up to date with setup.cfg."""
    digest = hashlib.sha256((ROOT / "setup.cfg").read_bytes()).hexdigest()
    stamp = VENV / f"dianjing-{extras or 'plain'}.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    report(f"setting up {VENV} (once; a few minutes)")
    make_venv()
    install_torch()
    if not pip_install("--editable", f".[{extras}]" if extras else "."):
        stop("the package could not be installed (see above).")
    stamp.write_text(digest)


def install_browser():
    """Install Chromium and Chinese fonts for the tests of the page: Debian's as root with apt, else Playwright's."""
    if shutil.which("chromium") or shutil.which("chromium-browser"):
        return
    if shutil.which("apt-get") and getattr(os, "geteuid", lambda: 1)() == 0:
        report("installing Chromium for the tests of the page")
        subprocess.call(["apt-get", "update"], stdout=sys.stderr)
        command = ["apt-get", "install", "-y", "--no-install-recommends", "chromium", "fonts-noto-cjk"]
        if subprocess.call(command, stdout=sys.stderr) == 0:
            return
    if subprocess.call([str(BIN / "playwright"), "install", "chromium"], stdout=sys.stderr):
        stop("the tests of the page need Chromium: install it, or see above why Playwright could not.")


def run_checks(checks, arguments):
    """Run checks until one fails; further arguments go to pytest, which has a process of one thread for each core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for check in checks:
        command = [str(BIN / check[0]), *check[1:], *(arguments if check[0] == "pytest" else [])]
        report(" ".join(check))
        code = subprocess.call(command, cwd=ROOT, env=environment)
        if code:
            raise SystemExit(code)


def main():
    if sys.version_info < (3, 10):  # noqa: UP036 (this file runs before pip can refuse)
        stop(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command == "test":
        set_up("dev")
        install_browser()
        if "--fast" in arguments:
            arguments.remove("--fast")
            run_checks(FAST_CHECKS, arguments)
        else:
            run_checks(CHECKS, arguments)
        return
    if command == "verify":
        set_up("dev")
        raise SystemExit(subprocess.call([str(BIN / "python"), "-m", "tests.verify", *arguments], cwd=ROOT))
    set_up("")
    dianjing = str(BIN / "dianjing")
    if os.name == "posix":
        os.execv(dianjing, [dianjing, command, *arguments])
    raise SystemExit(subprocess.call([dianjing, command, *arguments]))


if __name__ == "__main__":
    main()
