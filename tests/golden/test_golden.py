"""Results are those of the files in made/: bit for bit on the machine that made them, elsewhere as near as is told."""

import json
import warnings

import pytest

from tests.golden.cases import CASES, FINGERPRINT, MADE, RESUMED, tolerance
from tests.golden.machine import fingerprint, settled
from tests.golden.results import Results, differences, load

ALL = [*((name, case) for name, case in CASES.items()), *((name, case) for name, case in RESUMED.items())]
IDS = [*CASES, *(f"{name}-resumed" for name in RESUMED)]


@pytest.fixture(autouse=True)
def process():
    with settled():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where runs are kept that others begin with."""
    return tmp_path_factory.mktemp("golden")


def is_same_machine() -> bool:
    made_on = json.loads(FINGERPRINT.read_text(encoding="utf-8"))
    here = fingerprint()
    if made_on == here:
        return True
    changed = [f"{key}: {here.get(key)}, was {made_on.get(key)}" for key in made_on if made_on[key] != here.get(key)]
    warnings.warn(f"not the machine that made the files, so within a tolerance: {'; '.join(changed)}", stacklevel=1)
    return False


def golden(name: str) -> Results:
    return load(MADE / f"{name}.npz")


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_results_are_as_they_were(name, case, root):
    found = differences(case(root), golden(name), exact=is_same_machine(), tolerance=tolerance(name))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("exact", [True, False])
def test_a_changed_number_is_seen(exact):
    made = golden("transformer-picture")
    made["plain"] = made["plain"] * (1 + 1e-3)
    (line,) = differences(made, golden("transformer-picture"), exact=exact, tolerance=1e-4)
    assert line.startswith("plain: ")


def test_one_bit_is_seen():
    made = golden("train-film")
    made["weights"].view("u1").flat[0] ^= 1
    assert differences(made, golden("train-film"), exact=True, tolerance=1.0)


def test_files_are_small():
    assert sum(path.stat().st_size for path in MADE.parent.rglob("*") if path.suffix != ".pyc") < 3_000_000
