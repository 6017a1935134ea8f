"""The model card of an export, and a changed scheduler that is kept."""

import json

import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel
from huggingface_hub import ModelCard
from PIL import Image

from dianjing import TextToImagePipeline
from dianjing.cli import image_job
from dianjing.pipelines.schedulers import load_adapter_scheduler
from dianjing.train.model_card import write_model_card
from dianjing.train.run import train_model
from tests.train.finetuning import get_export_folder, make_finetune_config
from tests.train.tiny import UNINTERRUPTED, make_autoencoder_config

CHANGED = {"data": {"validation_fraction": 0.3}, "objective": {"prediction_type": "flow", "flow_shift": 2.0}}


@pytest.fixture
def config(tmp_path, finetune_config):
    config = finetune_config(tmp_path / "my-style", changes=CHANGED)
    train_model(config, **UNINTERRUPTED)
    return config


def run_example(config, base):
    """Run the code of a card; returns its pipeline."""
    text = ModelCard.load(get_export_folder(config) / "README.md").text
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace("FOLDER", str(get_export_folder(config))).replace(f'"{base.name}"', f'"{base}"')
    names = {"image": Image.new("RGB", (16, 16))}
    exec(code.replace('("canny")(image)).images', '("canny")(image), num_inference_steps=1).images'), names)
    return names["pipe"]


def test_card_describes_model_data_and_metrics(config):
    card = ModelCard.load(get_export_folder(config) / "README.md")
    assert card.data.library_name == "diffusers"
    assert card.data.tags == ["dianjing", "finetune", "lora"]
    assert "# my-style" in card.text
    assert "An adapter for `export`" in card.text  # its name, not its path
    assert str(config.run.folder.parent) not in card.text
    assert "9 samples (6 of 16 x 16 px, 3 of 24 x 12 px)" in card.text
    last = {}
    for line in (config.run.folder / "metrics.jsonl").read_text().splitlines():
        last |= json.loads(line)
    assert f"| validation_mse_en | {last['validation_mse_en']:.4g} |" in card.text
    assert "| samples | 12 |" in card.text
    assert "| samples/s |" in card.text
    assert '"prediction_type": "flow"' in card.text


def test_code_of_the_card_loads_it_with_its_own_scheduler(config, model):
    pipe = run_example(config, model)
    assert pipe.scheduler.config.prediction_type == "flow_prediction"
    assert pipe.get_active_adapters()
    assert pipe("小猫", num_inference_steps=1).images


def test_code_of_a_controlnet_card_runs(tmp_path, model, datasets_file):
    config = make_finetune_config(
        tmp_path / "lines",
        model=model,
        datasets_file=datasets_file,
        changes={"model": {"trainable": "controlnet"}},
        total_steps=1,
    )
    train_model(config, **UNINTERRUPTED)
    assert isinstance(run_example(config, model).controlnet, HunyuanDiT2DControlNetModel)


def test_command_line_samples_with_the_scheduler_of_the_adapter(config, model, tmp_path, monkeypatch):
    calls = []
    plain = image_job.generate_images

    def generate(pipe, *arguments, **options):
        calls.append(pipe.scheduler.config.prediction_type)
        return plain(pipe, *arguments, **options)

    monkeypatch.setattr(image_job, "generate_images", generate)
    for lora in (None, str(get_export_folder(config))):
        job = image_job.validate_image_job(
            ["小猫"],
            out=tmp_path / f"{lora is None}.png",
            seed=0,
            model=str(model),
            device="cpu",
            dtype="float32",
            producer=None,
            loras=[] if lora is None else [lora],
            num_inference_steps=1,
        )
        list(image_job.run_image_job(job))
    assert calls == ["v_prediction", "flow_prediction"]


def test_scheduler_that_diffusers_does_not_have_is_refused(tmp_path):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match="AutoencoderKL, which diffusers does not have"):
        load_adapter_scheduler(tmp_path)
    assert load_adapter_scheduler(tmp_path / "nowhere") is None


def test_card_of_a_registered_model_names_it_with_its_licence(tmp_path, finetune_config):
    config = finetune_config(tmp_path, changes={"model": {"trainable": "all"}})
    named = config.model.model_copy(update={"name": "hunyuan-dit-v1.2"})
    card = ModelCard.load(write_model_card(tmp_path, config.model_copy(update={"model": named}), {}))
    assert card.data.base_model == "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"
    assert card.data.license == "tencent-hunyuan-community"


def test_card_of_an_autoencoder_loads_it(tmp_path):
    text = write_model_card(tmp_path, make_autoencoder_config(tmp_path / "run"), {"psnr_db": 30.1}).read_text()
    assert 'AutoencoderKL.from_pretrained("FOLDER/vae")' in text
    assert "| psnr_db | 30.1 |" in text


def test_export_of_all_weights_loads_by_its_card(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path / "all", changes={"model": {"trainable": "all"}})
    train_model(config, **UNINTERRUPTED)
    pipe = run_example(config, model)
    assert isinstance(pipe, TextToImagePipeline)
    assert pipe.dtype == torch.float32
