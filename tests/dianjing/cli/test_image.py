"""`dianjing image` with a real pipeline, end to end: a tiny one with random weights."""

import hashlib
import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from dianjing.cli import app
from dianjing.pipelines.media.aigc_label import XMP_KEY
from dianjing.pipelines.media.image import read_image_metadata


def test_one_command_generates_and_stdout_is_json(tiny_folder, tmp_path):
    arguments = ["小猫", "cat", "--count", "2", "--seed", "3", "--size", "48x32", "--out", "a.png", "--json"]
    command = [sys.executable, "-m", "dianjing", "image", *arguments, "--model", str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    pictures = json.loads(done.stdout)["images"]
    assert [picture["path"] for picture in pictures] == [f"a-{i}.png" for i in range(1, 5)]
    assert [picture["seed"] for picture in pictures] == [3, 4, 3, 4]
    record = read_image_metadata(tmp_path / "a-1.png")
    assert record.prompt == "小猫"
    assert record.model == str(tiny_folder)
    assert record.settings["num_inference_steps"] == 2
    assert record.settings["guidance_scale"] == 3.0
    with Image.open(tmp_path / "a-1.png") as picture:
        assert picture.size == (48, 32)
        assert XMP_KEY in picture.text


def generate(monkeypatch, model, *arguments):
    monkeypatch.setattr(sys, "argv", ["dianjing", "image", *arguments, "--model", str(model)])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 0


def test_an_image_can_be_generated_again_from_its_metadata(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate(monkeypatch, tiny_folder, "cat", "--seed", "5", "--count", "2", "--guidance-scale", "2", "--out", "a.png")
    record = read_image_metadata("a-2.png")
    settings = record.settings
    generate(
        monkeypatch,
        record.model,
        record.prompt,
        "--seed",
        str(record.seed),
        "--out",
        "b.png",
        "--size",
        f"{settings['width']}x{settings['height']}",
        "--steps",
        str(settings["num_inference_steps"]),
        "--guidance-scale",
        str(settings["guidance_scale"]),
    )
    with Image.open("a-2.png") as first, Image.open("b.png") as second, Image.open("a-1.png") as other:
        assert get_distance(first, second) <= 1  # a batch of two and a batch of one may round differently
        assert get_distance(first, other) > 1


def test_the_settings_of_a_file_name_the_guider_and_the_scheduler_that_make_it_again(
    tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    common = ["cat", "--seed", "5", "--steps", "4", "--guidance-scale", "4"]
    generate(monkeypatch, tiny_folder, *common, "--out", "plain.png")
    options = ["--guidance-mode", "apg:eta=0.2", "--scheduler", "eulerdiscrete:use_karras_sigmas"]
    generate(monkeypatch, tiny_folder, *common, *options, "--out", "a.png")
    settings = read_image_metadata("a.png").settings
    assert settings["guider"] == "apg:eta=0.2"
    assert settings["scheduler"] == "EulerDiscreteScheduler:use_karras_sigmas=true"
    options = ["--guidance-mode", settings["guider"], "--scheduler", settings["scheduler"]]
    generate(monkeypatch, tiny_folder, *common, *options, "--out", "b.png")
    with Image.open("a.png") as first, Image.open("b.png") as second, Image.open("plain.png") as plain:
        assert get_distance(first, second) == 0
        assert get_distance(first, plain) > 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--guidance-mode", "cgf"], "choose from cfg"),
        (["--guidance-mode", "apg:momentum=2"], "adaptive_projected_guidance_momentum"),
        (["--scheduler", "EDMEuler"], "another noise process"),
        (["--scheduler", "DDIM:eta=1"], "no option eta"),
    ],
)
def test_a_guider_or_scheduler_that_does_not_fit_is_refused_before_weights_load(
    tiny_folder, tmp_path, monkeypatch, capsys, options, part
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dianjing.TextToImagePipeline.from_pretrained", lambda *_, **__: pytest.fail("weights load"))
    monkeypatch.setattr(sys, "argv", ["dianjing", "image", "cat", *options, "--model", str(tiny_folder)])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 2
    assert part in capsys.readouterr().err


def test_what_an_encoder_cannot_read_is_in_the_json(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generate(monkeypatch, tiny_folder, "cat cat cat cat cat dog 猫", "--steps", "1", "--out", "a.png", "--json")
    truncated = json.loads(capsys.readouterr().out)["images"][0]["truncated"]
    assert {each["name"] for each in truncated} == {"prompt"}
    by_encoder = {each["encoder"]: each for each in truncated}
    assert by_encoder["text_encoder"]["text"] == "cat dog 猫"
    assert by_encoder["text_encoder"]["num_tokens"] > by_encoder["text_encoder"]["max_tokens"]


def get_distance(first, second):
    return max(abs(x - y) for x, y in zip(first.tobytes(), second.tobytes(), strict=True))


def test_a_missing_device_is_refused(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["dianjing", "image", "cat", "--device", "cuda", "--model", str(tiny_folder)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 2
    assert "--device cuda is not available" in capsys.readouterr().err


@pytest.mark.parametrize("defect", ["a pickle by another name", "hold NaN"])
def test_damaged_weights_end_with_2_and_no_image(defect, tiny_folder, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    if defect == "hold NaN":
        tensors = load_file(weights)
        next(iter(tensors.values())).flatten()[0] = float("nan")
        save_file(tensors, weights)
    else:
        weights.write_bytes(pickle.dumps({}))
    monkeypatch.setattr(sys, "argv", ["dianjing", "image", "cat", "--model", str(folder), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 2
    assert defect in capsys.readouterr().err
    assert list(tmp_path.glob("*.png")) == []


def write_lora(folder, tiny_folder):
    """An adapter that changes something."""
    import torch
    from peft import LoraConfig, get_peft_model_state_dict

    from dianjing import DiT, TextToImagePipeline

    transformer = DiT.from_pretrained(tiny_folder / "transformer")
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    torch.manual_seed(0)
    weights = {name: torch.randn_like(weight) for name, weight in get_peft_model_state_dict(transformer).items()}
    TextToImagePipeline.save_lora_weights(folder, weights)


def test_an_adapter_changes_the_image_and_is_named_in_it(tiny_folder, tmp_path, monkeypatch):
    write_lora(tmp_path / "adapter", tiny_folder)
    for name, options in (("plain.png", []), ("adapted.png", ["--lora", f"{tmp_path / 'adapter'}:0.8"])):
        generate(monkeypatch, tiny_folder, "cat", "--seed", "1", "--out", str(tmp_path / name), *options)
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "adapted.png") as adapted:
        assert plain.tobytes() != adapted.tobytes()
    weights = tmp_path / "adapter" / "pytorch_lora_weights.safetensors"
    adapter = {"name": "adapter", "scale": 0.8, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert read_image_metadata(tmp_path / "adapted.png").settings["lora"] == [adapter]
    assert "lora" not in read_image_metadata(tmp_path / "plain.png").settings


@pytest.mark.parametrize("name", ["nowhere.safetensors", "empty", "lora.bin", "cut.safetensors", "whole"])
def test_a_path_without_adapter_is_refused_before_weights_load(name, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "lora.bin").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(b"")
    (tmp_path / "whole").mkdir()  # but for its file, which is cut off
    (tmp_path / "whole" / "pytorch_lora_weights.safetensors").write_bytes(save({"lora_A": torch.zeros(8)})[:-4])
    monkeypatch.setattr("dianjing.cli.image_conditions.load_pipeline", None)
    monkeypatch.setattr(sys, "argv", ["dianjing", "image", "cat", "--lora", str(tmp_path / name)])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    assert stopped.value.code == 2
    assert "safetensors" in capsys.readouterr().err
