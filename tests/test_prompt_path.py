"""The way of a prompt from the command line to the model: few modules, as the architecture page names them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_MODULES = 8  # of functions that take the prompt, outside dit/
TRACE = """
import dataclasses, json, sys

PROMPT = "a cat on the grass"
modules = []


def holds_prompt(value, depth=0):
    if isinstance(value, str):
        return value == PROMPT
    if depth == 2:
        return False
    if isinstance(value, (list, tuple)):
        return any(holds_prompt(item, depth + 1) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(holds_prompt(getattr(value, field.name, None), depth + 1) for field in dataclasses.fields(value))
    return False


def trace(frame, event, argument):
    module = frame.f_globals.get("__name__") or ""
    if event != "call" or not module.startswith("dianjing."):
        return
    code = frame.f_code
    if module.startswith("dianjing.dit"):
        if code.co_name == "forward":
            sys.setprofile(None)
            print(json.dumps(modules), flush=True)
            os._exit(0)
        return
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if module not in modules and any(holds_prompt(frame.f_locals.get(name)) for name in names):
        modules.append(module)


import os
from dianjing.cli.app import main

sys.argv = ["dianjing", "image", PROMPT, "--steps", "1", "--out", "a.png"]
sys.setprofile(trace)
main()
"""


def test_a_prompt_passes_at_most_eight_modules_before_the_model(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRACE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    assert modules[0] == "dianjing.cli.image"
    assert "dianjing.pipelines.text_to_image" in modules
    assert len(modules) <= MAX_MODULES, modules
