"""Before a run the command line says that a size is untrained, and how long it takes."""

import pytest

from dianjing.cli import app
from dianjing.pipelines.cost_model import CostModel, TransformerShape


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


def test_an_image_of_1024_px_is_announced_with_its_time(run_until_sampling):
    err = run_until_sampling("image", "a cat", "--size", "1024")
    assert "this model was trained for 128 x 128; at 1024 x 1024 the result gets worse" in err
    assert "this takes about 3 min" in err  # 8 steps of 22 GFLOP
    assert "大约需要 3 分钟" in run_until_sampling("image", "a cat", "--size", "1024", language="zh")


def test_a_long_video_is_announced_and_an_image_of_the_default_size_is_not(run_until_sampling):
    assert "this takes about" in run_until_sampling("video", "a cat jumping", "--seconds", "60")
    assert "this takes" not in run_until_sampling("image", "a cat")
