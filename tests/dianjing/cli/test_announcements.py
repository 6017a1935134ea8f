"""Before a run the command line says that a size is untrained, and how long it takes."""

import pytest
from peft import LoraConfig, get_peft_model_state_dict

from dianjing import DiT, TextToImagePipeline
from dianjing.cli import app
from dianjing.pipelines.cost_model import CostModel, TransformerShape
from dianjing.weights.adapter_sampling import AdapterSampling, write_adapter_sampling
from dianjing.weights.resolve import resolve_model


class FixedCostModel(CostModel):
    """Stands in for a machine of 1 GFLOP/s."""

    @classmethod
    def measure(cls, pipe, **options):
        shape = TransformerShape.from_transformer(pipe.transformer, vae_scale_factor=pipe.vae_scale_factor)
        return cls(shape, step_overhead_s=0.0, flops_per_s=1e9, decode_s_per_pixel=0.0)


@pytest.fixture
def run_until_sampling(monkeypatch, capsys, tmp_path):
    """Run the command until it would sample, and return stderr."""
    import dianjing

    class ReachedSamplingError(BaseException):
        pass

    def stop(self, *of_a_call, **options):
        raise ReachedSamplingError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dianjing.pipelines.cost_model.CostModel", FixedCostModel)
    for name in ("TextToImagePipeline", "TextToVideoPipeline"):
        monkeypatch.setattr(getattr(dianjing, name), "__call__", stop)

    def run(*arguments, language="en"):
        monkeypatch.setenv("DIANJING_LANG", language)
        monkeypatch.setattr("sys.argv", ["dianjing", *arguments])
        with pytest.raises(ReachedSamplingError):
            app.main()
        return capsys.readouterr().err

    return run


def test_a_large_image_is_announced_with_its_time(run_until_sampling):
    err = run_until_sampling("image", "a cat", "--size", "1344")
    assert "this model was trained for 128 x 128; at 1344 x 1344 the result gets worse" in err
    assert "this takes about 5 min" in err  # 6 steps of 41 GFLOP
    assert "大约需要 5 分钟" in run_until_sampling("image", "a cat", "--size", "1344", language="zh")


def test_a_long_video_is_announced_and_an_image_of_the_default_size_is_not(run_until_sampling):
    assert "this takes about" in run_until_sampling("video", "a cat jumping", "--seconds", "60")
    assert "this takes" not in run_until_sampling("image", "a cat")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter of the bundled model, without sampling settings of its own."""
    folder = tmp_path_factory.mktemp("adapter")
    transformer = DiT.from_pretrained(resolve_model("sticker") / "transformer")
    transformer.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    metadata = transformer.peft_config["default"].to_dict()
    weights = get_peft_model_state_dict(transformer)
    TextToImagePipeline.save_lora_weights(folder, weights, transformer_lora_adapter_metadata=metadata)
    return folder


def test_the_time_is_that_of_the_steps_of_adapters(run_until_sampling, adapter):
    def announce(*arguments):
        lines = run_until_sampling("image", "a cat", "--size", "1344", "--lora", str(adapter), *arguments)
        return next(line for line in lines.splitlines() if "this takes" in line)

    assert "about 41 min" in announce()  # 30 steps, twice for the guidance, where 6 take 4.1 min
    assert "about 5 min" in announce("--few-steps")
    write_adapter_sampling(adapter, AdapterSampling(num_inference_steps=16, guidance_scale=1.0))
    assert "about 11 min" in announce()
    assert "about 22 min" in announce("--guidance-mode", "apg")  # which guides by the scale of the model
