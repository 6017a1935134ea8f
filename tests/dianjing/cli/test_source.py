"""`--source` names the hub that models are downloaded from."""

import sys

import pytest

from dianjing.weights.hubs import SOURCE_VARIABLE, get_model_source


@pytest.fixture(autouse=True)
def source_variable(monkeypatch):
    monkeypatch.setenv(SOURCE_VARIABLE, "huggingface")  # so that it is restored


def test_the_option_sets_the_source_of_the_process(stub, call):
    assert call("image", "cat", "--source", "modelscope")[0] == 0
    assert get_model_source() == "modelscope"


def test_without_the_option_the_environment_decides(stub, call, monkeypatch):
    monkeypatch.setenv(SOURCE_VARIABLE, "modelscope")
    assert call("image", "cat")[0] == 0
    assert get_model_source() == "modelscope"


@pytest.mark.parametrize("command", ["image", "animate", "video", "chat", "demo"])
def test_every_command_that_loads_a_model_takes_a_source_and_refuses_an_unknown_one(call, command):
    code, _, err = call(command, "--source", "github")
    assert code == 2
    assert "--source" in err
    assert "huggingface" in err


def test_a_download_from_modelscope_without_its_package_names_the_extra(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "modelscope", None)
    code, _, err = call("image", "cat", "--model", "someone/some-model", "--source", "modelscope")
    assert code == 2
    assert "dianjing[modelscope]" in err
