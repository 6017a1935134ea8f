"""Committed results of long measurements are there, within their bounds, and made with the code that there is."""

import pytest

from tests.verify.records import RECORDED, find_failures, find_measured_files, hash_content, normalize_code, read_record

NAMES = [record.name for record in RECORDED]


@pytest.mark.parametrize("record", RECORDED, ids=NAMES)
def test_every_record_was_made_with_the_present_code(record):
    result = read_record(record)
    assert result["content_hash"] == hash_content(record), f"out of date: python3 run.py verify {record.name}"
    assert result["command"] == f"python {' '.join(record.command)}"
    assert {"commit", "date", "machine"} <= set(result)


@pytest.mark.parametrize("record", RECORDED, ids=NAMES)
def test_every_record_is_within_its_bounds(record):
    assert find_failures(record, read_record(record)["figures"]) == []


@pytest.mark.parametrize("record", RECORDED, ids=NAMES)
def test_every_pattern_of_a_record_finds_files(record):
    found = find_measured_files(record)
    for pattern in record.measures:
        assert any(path.match(pattern.replace("**/", "")) for path in found), pattern


def test_the_hash_sees_code_and_not_comments():
    plain = normalize_code("def f(x):\n    return x + 1\n")
    assert plain == normalize_code('def f(x):\n    """Add one."""\n    return x + 1  # more\n')
    assert plain != normalize_code("def f(x):\n    return x + 2\n")
