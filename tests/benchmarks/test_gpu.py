"""The GPU benchmark: every part with tiny models on a CPU, and its behaviour without time or a device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import models, training
from benchmarks.gpu.meter import GIB, Meter, TimeBudget
from benchmarks.gpu.runner import BenchmarkPart, GpuBenchmark, describe_failure, run_parts
from benchmarks.gpu.scales import REAL_SCALE, TINY_SCALE
from benchmarks.gpu.steps import make_direct_implementation, make_step_inputs
from benchmarks.gpu.tables import format_gpu_report

ROOT = Path(__file__).parents[2]
ABSENT = ("av", "pydantic", "gradio", "fastapi", "uvicorn", "typer", "cv2", "imageio", "datasets", "torchmetrics")
CPU = torch.device("cpu")


class FakeClock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def benchmark(clock):
    return GpuBenchmark(scale=TINY_SCALE, meter=Meter(CPU), budget=TimeBudget(end_s=100.0, now=clock))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """One complete run, and the file that it wrote."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    code = command.main(["--tiny", "--seconds", "2000", "--out", str(path), "--commit", "abc"])
    torch.set_num_threads(threads)
    assert code == 0
    return json.loads(path.read_text(encoding="utf-8")), path


def test_a_tiny_run_measures_every_part(report):
    results, _ = report
    parts = results["parts"]
    assert list(parts) == [part.name for part in command.make_schedule(TINY_SCALE)]
    assert not any({"unfinished", "skipped"} & part.keys() for part in parts.values())
    assert results["commit"] == "abc"
    assert {"torch", "diffusers", "transformers"} <= results["versions"].keys()
    assert parts["ceilings"]["matrix_flops_per_s"] > 0
    assert parts["ceilings"]["copy_bytes_per_s"] > 0


def test_steps_of_all_implementations_are_measured_and_near_float32(report):
    parts = report[0]["parts"]
    for name, implementations in (("step at 64 px", 5), ("step at 32 px", 5), ("step, full graph", 2)):
        step = parts[name]
        assert len(step["implementations"]) == implementations
        assert step["float32_max_difference"] <= 1e-4
        assert len(step["comparisons"]) == (4 if implementations == 5 else 1)
        for entry in step["implementations"].values():
            assert len(entry["seconds"]) == TINY_SCALE.step_rounds
            assert 0 < entry["forward_l2"] < 0.05
            assert entry["utilization"] == pytest.approx(step["min_s"] / entry["step_s"]["median"])


def test_images_placements_and_training_are_measured(report):
    parts = report[0]["parts"]
    images = parts["image"]
    assert all(images["is_finite"].values())
    assert {steps: len(each["pipelines"]) for steps, each in images["images"].items()} == {"3": 4, "2": 4}
    placements = parts["memory by placement"]["placements"]
    assert len(placements) == 6
    for name, each in placements.items():
        assert each["pixels_l2"] < (0.2 if "float8" in name else 0.05)
    rows = parts["training step"]["variants"]
    assert list(rows) == [row.name for row in training.TRAINING_VARIANTS]
    assert all(row["is_finite"] and row["samples_per_s"] > 0 for row in rows.values())
    assert rows["dianjing lora"]["trained_parameters"] == rows["diffusers lora"]["trained_parameters"]
    assert rows["dianjing all"]["trained_parameters"] == rows["diffusers all"]["trained_parameters"]


def test_the_tables_of_a_file_can_be_printed_again(report, capsys):
    results, path = report
    assert command.main(["--show", str(path)]) == 0
    output = capsys.readouterr().out
    assert output.strip() == format_gpu_report(results)
    for name in ("dianjing, precomputed, compiled", "model offload", "dianjing lora, checkpointed", "TFLOP/s"):
        assert name in output


def test_without_cuda_the_error_says_what_is_needed(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    message = capsys.readouterr().err
    assert "needs an NVIDIA GPU with about 60 GiB" in message
    assert "--tiny" in message


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--out", "no/such/folder/gpu.json"], ["--show", "no.json"]])
def test_wrong_options_are_refused_before_anything_runs(monkeypatch, capsys, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run_gpu_benchmark", None)
    assert command.main(["--tiny", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_imports_need_only_packages_of_a_compute_machine():
    code = (
        "import sys\n"
        f"for name in {ABSENT!r}: sys.modules[name] = None\n"
        "import benchmarks.gpu.__main__ as command\n"
        "from benchmarks.gpu.runner import GpuBenchmark\n"
    )
    results = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert results.returncode == 0, results.stderr


def part(name, clock, *, takes_s, needs_s=10.0, share_s=50.0, error=None):
    """Return a part that yields three results, or fewer if its share of the time is over."""

    def run(benchmark, share):
        for count in range(1, 4):
            clock.now_s += takes_s / 3
            yield {"count": count}
            if error is not None:
                raise error
            if not share.has(0):
                return

    return BenchmarkPart(name=name, needs_s=needs_s, share_s=share_s, run=run)


def test_parts_are_skipped_when_the_time_is_over(benchmark, clock):
    saved = []
    parts = [part("first", clock, takes_s=30.0), part("slow", clock, takes_s=96.0), part("late", clock, takes_s=3.0)]
    results = run_parts(parts, benchmark, lambda each: saved.append(json.dumps(each)))
    assert results == {
        "first": {"count": 3, "elapsed_s": 30.0},
        "slow": {"count": 2, "elapsed_s": 64.0},  # its share of 50 s is over after the second result
        "late": {"skipped": "needs 10 s, and 6 s remained"},
    }
    assert json.loads(saved[0]) == {"first": {"count": 1, "unfinished": True}}  # the file of a stopped run


def test_a_failed_part_keeps_its_results_and_ends_alone(benchmark, clock):
    parts = [part("bad", clock, takes_s=3.0, error=RuntimeError("no kernel")), part("good", clock, takes_s=3.0)]
    results = run_parts(parts, benchmark, lambda each: None)
    assert results["bad"]["count"] == 1
    assert results["bad"]["error"] == "RuntimeError: no kernel"
    assert results["good"]["count"] == 3
    assert command.has_failed(results)
    assert not command.has_failed({"good": results["good"]})


def test_a_lack_of_memory_is_no_error():
    assert "skipped" in describe_failure(torch.OutOfMemoryError("2 GiB"))


def test_a_run_without_time_reports_every_part_as_skipped(capsys):
    assert command.main(["--tiny", "--seconds", "0.01"]) == 0
    assert capsys.readouterr().out.count("skipped: needs") == len(command.make_schedule(TINY_SCALE))


class FakeModule:
    """The functions of torch.cuda that `Meter` calls, with the time of a fake clock."""

    def __init__(self, clock):
        self.clock = clock
        self.log = []

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self):
                self.at_s = clock.now_s

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return 1000 * (end.at_s - self.at_s)

        self.Event = Event

    def synchronize(self):
        self.log.append("synchronize")

    def empty_cache(self):
        self.log.append("empty_cache")

    def reset_peak_memory_stats(self):
        self.log.append("reset")

    def memory_allocated(self):
        return GIB

    def max_memory_allocated(self):
        return 2 * GIB

    def max_memory_reserved(self):
        return 3 * GIB


def test_on_a_device_events_measure_time_and_the_allocator_memory(clock):
    module = FakeModule(clock)
    meter = Meter(torch.device("cuda"), module)

    def work():
        clock.now_s += 2.5
        return "done"

    assert meter.time(work) == (2.5, "done")
    meter.clear()
    assert module.log == ["synchronize", "synchronize", "empty_cache", "reset"]
    assert meter.memory() == {"allocated_gib": 1, "peak_allocated_gib": 2, "peak_reserved_gib": 3}


def test_all_functions_of_the_meter_exist_in_torch_cuda(clock):
    names = [name for name in vars(FakeModule) if not name.startswith("_")]
    assert all(callable(getattr(torch.cuda, name)) for name in [*names, "Event"])


def test_one_forward_at_the_real_size_is_14_teraflop():
    assert models.count_forward_flops(REAL_SCALE, 1024) / 1e12 == pytest.approx(14.37, abs=0.01)


def test_operations_are_counted_as_on_paper():
    config, px = TINY_SCALE.transformer, 64
    width, hidden = config["hidden_size"], 4 * config["hidden_size"]
    text, text_t5, depth = config["cross_attention_dim"], config["cross_attention_dim_t5"], config["num_layers"]
    tokens, tokens_t5, image = 77 + 256, 256, (px // 16) ** 2
    self_attention = image * 4 * width**2 + 2 * image**2 * width
    cross_attention = image * 2 * width**2 + tokens * 2 * text * width + 2 * image * tokens * width
    block = self_attention + cross_attention + image * 2 * width * hidden + width**2  # and the shift
    skips = (depth - 1) // 2 * image * 2 * width**2
    pool = 257 * 2 * text_t5**2 + text_t5**2 + 2 * 257 * text_t5 + text_t5 * config["pooled_projection_dim"]
    time = 256 * width + width**2 + config["pooled_projection_dim"] * 4 * width + 4 * width**2
    ends = tokens_t5 * (4 * text_t5**2 + 4 * text_t5 * text) + image * 16 * width + 2 * width**2 + image * width * 32
    expected = 2 * (depth * block + skips + pool + time + ends)
    assert models.count_forward_flops(TINY_SCALE, px) == pytest.approx(expected, rel=0.02)


def test_copies_share_the_tensors_of_one_model(benchmark):
    transformers = benchmark.transformers
    parameters = dict(transformers.diffusers.named_parameters())
    for copy in (transformers.dianjing, transformers.dianjing_compiled, transformers.diffusers_compiled):
        shared = {name: value for name, value in copy.named_parameters() if name in parameters}
        assert shared.keys() == parameters.keys()
        assert all(value.data_ptr() == parameters[name].data_ptr() for name, value in shared.items())
        assert all(value.dtype == torch.bfloat16 for value in shared.values())


def test_equal_blocks_are_compiled_once(benchmark):
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    with torch.no_grad():
        make_direct_implementation(
            "", benchmark.transformers.dianjing_compiled, make_step_inputs(benchmark, 64)
        ).predict()
    assert counters["stats"]["unique_graphs"] == 2  # with a skip connection and without
    assert not counters["graph_break"]
