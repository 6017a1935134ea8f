"""Processes that multiprocessing's fork server starts: it imports the package once, so that they import nothing."""

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
IMPORTED_ONCE = ["dianjing.train.cli", "dianjing.demo.app"]
CONTEXT = multiprocessing.get_context("forkserver")


def start_process(
    function: Callable[..., object],
    *arguments: Any,
    environment: dict[str, str] | None = None,
    error_file: Path | None = None,
) -> BaseProcess:
    """Start a function of a module in a process, which leads a process group and ends with this one.

    environment: in place of the inherited one. error_file: the file that standard error is written to.
    """
    CONTEXT.set_forkserver_preload(IMPORTED_ONCE)
    job = (function, arguments, dict(environment or os.environ), error_file)
    process = CONTEXT.Process(target=_run, args=job, daemon=True)
    with mock.patch.object(sys, "path", [str(ROOT), *sys.path]):  # the process finds the tests' modules there
        process.start()
    return process


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, however that was."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(
    function: Callable[..., object], arguments: tuple[Any, ...], environment: dict[str, str], error_file: Path | None
) -> None:
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # as the environment says
    if error_file is not None:
        with error_file.open("wb") as stream:
            os.dup2(stream.fileno(), sys.stderr.fileno())
    function(*arguments)
