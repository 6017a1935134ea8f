"""Ceilings of the device: rates of a large matrix product, a large copy, and attention at the model's head width."""

import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.meter import TimeBudget
from benchmarks.gpu.models import DTYPE
from benchmarks.gpu.runner import GpuBenchmark, Results
from benchmarks.model_sizes import SEED

REPEATS = 20
ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def measure_ceilings(benchmark: GpuBenchmark, share: TimeBudget) -> Iterator[Results]:
    """Measure median rates on random data in FLOP/s and bytes/s, where a copy counts as read and written."""
    generator = torch.Generator(benchmark.device).manual_seed(SEED)
    side = benchmark.scale.matrix_side

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=benchmark.device, dtype=DTYPE)

    left, right, product = random(side, side), random(side, side), random(side, side)
    product_s = _median_s(benchmark, lambda: torch.mm(left, right, out=product))
    results: Results = {"matrix_side": side, "matrix_flops_per_s": 2 * side**3 / product_s}
    benchmark.rates.update(matrix_flops_per_s=results["matrix_flops_per_s"])
    yield results

    source = random(benchmark.scale.copy_bytes // DTYPE.itemsize)
    target = torch.empty_like(source)
    copy_s = _median_s(benchmark, lambda: target.copy_(source))
    results |= {
        "copy_bytes": benchmark.scale.copy_bytes,
        "copy_bytes_per_s": 2 * benchmark.scale.copy_bytes / copy_s,
        "attention_flops_per_s": {},
    }
    benchmark.rates.update(copy_bytes_per_s=results["copy_bytes_per_s"])
    yield results

    config, size_px = benchmark.scale.transformer, benchmark.scale.step_sizes_px[0]
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    tokens = (size_px // 8 // config["patch_size"]) ** 2
    query, key, value = (random(2, heads, tokens, head_dim) for _ in range(3))
    flops = 4 * 2 * heads * tokens**2 * head_dim
    for name, backend in ATTENTION.items():
        try:
            with sdpa_kernel(backend):
                seconds = _median_s(benchmark, lambda: F.scaled_dot_product_attention(query, key, value))
        except RuntimeError:  # the device does not support this kernel
            results["attention_flops_per_s"][name] = None
            continue
        results["attention_flops_per_s"][name] = flops / seconds
    yield results


def _median_s(benchmark: GpuBenchmark, work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    return statistics.median(benchmark.meter.time(work)[0] for _ in range(REPEATS))
