"""Messages in both languages: every one renders, and every place that raises one gives what it needs."""

import ast
import errno
import pickle
import shutil
from pathlib import Path
from string import Formatter

import pytest
from safetensors import SafetensorError

from dianjing.errors import DianjingError, Lines, Message, convert_system_error, get_language, get_messages

ROOT = Path(__file__).parents[1]
FLOORS = ("dit", "weights", "pipelines", "train", "demo", "dianjing", "benchmarks")


def get_fields(template: str) -> set[str]:
    return {name.partition(".")[0].partition("[")[0] for _, name, _, _ in Formatter().parse(template) if name}


def find_uses() -> list[tuple[str, str, set[str] | None]]:
    """Place, message id and argument names of every error and message made in the floors; None for `**arguments`."""
    uses = []
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            if floor == "dianjing" and path.relative_to(ROOT / floor).parts[0] in FLOORS:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                    continue
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called == "Message" or (called.endswith("Error") and node.args[0].value in get_messages()):
                    names = None if any(k.arg is None for k in node.keywords) else {k.arg for k in node.keywords}
                    uses.append((f"{path.relative_to(ROOT)}:{node.lineno}", str(node.args[0].value), names))
    return uses


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("message_id", sorted(get_messages()))
def test_every_message_renders_its_example(message_id, language):
    text = Message(message_id, **get_messages()[message_id]["example"]).render(language)
    assert text.strip() == text
    assert "{" not in text
    assert any("\u4e00" <= char <= "\u9fff" for char in text) == (language == "zh")


@pytest.mark.parametrize("message_id", sorted(get_messages()))
def test_both_languages_use_the_same_arguments(message_id):
    entry = get_messages()[message_id]
    assert get_fields(entry["en"]) == get_fields(entry["zh"]) == set(entry["example"])


def test_every_place_that_raises_gives_the_arguments_of_its_message():
    wrong = [
        f"{place}: {message_id} takes {sorted(entry['example'])}"
        for place, message_id, names in find_uses()
        if (entry := get_messages().get(message_id)) is None
        or (names is not None and names - {"language"} != set(entry["example"]))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_message_is_used():
    assert set(get_messages()) <= {message_id for _, message_id, _ in find_uses()}


def test_lists_and_messages_inside_a_message_come_in_its_language():
    inner = Message("out_of_memory")
    error = DianjingError("network_failed", reason=[inner, "x"])
    assert error.render("zh") == (
        "网络请求失败（内存（或显存）不足；请减小尺寸、图片数量或帧数，或换用 bfloat16 等占用更小的数据类型、x）；"
        "请检查网络，或用环境变量 HF_ENDPOINT 设置镜像"
    )
    assert ", x)" in str(error)


def test_lines_of_a_message_stand_below_its_first_line_in_its_language():
    error = DianjingError("network_failed", reason=Lines([Message("out_of_memory"), "x"]))
    assert "failed (\n  the device is out of memory" in str(error)
    assert "失败（\n  内存（或显存）不足" in error.render("zh")
    assert "\n  x" in str(error)


def test_an_error_survives_pickling_with_its_arguments():
    error = pickle.loads(pickle.dumps(DianjingError("disk_full", path="a.png")))
    assert (error.message_id, error.arguments) == ("disk_full", {"path": "a.png"})
    assert str(error) == error.render("en")


@pytest.mark.parametrize(
    ("error", "message_id"),
    [
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "disk_full"),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), "disk_full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk_full"),
        (shutil.Error([("a", "b", "[Errno 13] Permission denied: 'b'")]), "permission_denied"),
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), "permission_denied"),
        (type("ConnectError", (Exception,), {})("refused"), "network_failed"),
    ],
)
def test_a_failure_of_the_machine_becomes_a_users_error(error, message_id):
    assert convert_system_error(error).message_id == message_id


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), OSError(errno.EINVAL, "x"), shutil.Error("x")])
def test_any_other_error_stays_a_fault_of_ours(error):
    assert convert_system_error(error) is None


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN", "DIANJING_LANG": "en"}, "en"),
        ({"LC_ALL": "C"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_of_the_process_comes_from_its_environment(monkeypatch, environment, language):
    for name in ("DIANJING_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert get_language() == language
