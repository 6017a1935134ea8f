"""Ceilings of the device: rates of a large matrix product, a large copy and attention kernels at our head width."""

import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.bench import Bench, Found
from benchmarks.gpu.meter import Budget
from benchmarks.gpu.models import DTYPE
from benchmarks.sizes import SEED

REPEATS = 20
ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}  # fmt: skip


def measure_ceilings(bench: Bench, share: Budget) -> Iterator[Found]:
    """Rates in FLOP/s and bytes/s (read and written), of random data; medians."""
    generator = torch.Generator(bench.device).manual_seed(SEED)
    side = bench.scale.matrix_side

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=bench.device, dtype=DTYPE)

    left, right, product = random(side, side), random(side, side), random(side, side)
    product_s = _median_s(bench, lambda: torch.mm(left, right, out=product))
    found: Found = {"matrix_side": side, "matrix_flops_per_s": 2 * side**3 / product_s}
    bench.rates.update(matrix_flops_per_s=found["matrix_flops_per_s"])
    yield found

    source = random(bench.scale.copy_bytes // DTYPE.itemsize)
    target = torch.empty_like(source)
    copy_s = _median_s(bench, lambda: target.copy_(source))
    found |= {
        "copy_bytes": bench.scale.copy_bytes,
        "copy_bytes_per_s": 2 * bench.scale.copy_bytes / copy_s,
        "attention_flops_per_s": {},
    }
    bench.rates.update(copy_bytes_per_s=found["copy_bytes_per_s"])
    yield found

    config, size_px = bench.scale.transformer, bench.scale.step_sizes_px[0]
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    tokens = (size_px // 8 // config["patch_size"]) ** 2
    query, key, value = (random(2, heads, tokens, head_dim) for _ in range(3))
    flops = 4 * 2 * heads * tokens**2 * head_dim
    for name, backend in ATTENTION.items():
        try:
            with sdpa_kernel(backend):
                seconds = _median_s(bench, lambda: F.scaled_dot_product_attention(query, key, value))
        except RuntimeError:  # this kernel is not for this device
            found["attention_flops_per_s"][name] = None
            continue
        found["attention_flops_per_s"][name] = flops / seconds
    yield found


def _median_s(bench: Bench, work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    return statistics.median(bench.meter.time(work)[0] for _ in range(REPEATS))
