"""Measurements as tables for a terminal or for Markdown, and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.comparison import BenchmarkSettings, Comparison, SizeResults
from benchmarks.images import STAGES, PipelineComparison
from benchmarks.implementations import IMAGE_STEPS
from benchmarks.timing import Quantiles

STEP_COLUMNS = [
    "model",
    "diffusers",
    "dianjing",
    "diffusers ms/step",
    "dianjing ms/step",
    "times as fast (quartiles)",
    "one forward off by",
    "final latents off by",
]
IMAGE_COLUMNS = ["one picture", "text ms", "denoise ms", "VAE ms", "all ms", "pixels off by"]
STEP_LEGEND = (
    "A step is one forward for two prompts with guidance and the scheduler's step; medians of interleaved pairs. "
    f'Ours contains its one-off work, spread over {IMAGE_STEPS} steps. "Off by" is the distance to diffusers in '
    "float32, theirs / ours: largest difference relative to the largest value, and relative L2."
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """All that one run found."""

    settings: BenchmarkSettings
    machine: dict[str, Any]
    sizes: Sequence[SizeResults]
    images: PipelineComparison | None  # None without the embedded bundle


def _format_ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _format_ratio(ratio: Quantiles) -> str:
    return f"{ratio.median:.2f} ({ratio.quartile_1:.2f}–{ratio.quartile_3:.2f})"


def _make_step_row(size_results: SizeResults, comparison: Comparison) -> list[str]:
    theirs, ours = size_results.results[comparison.diffusers], size_results.results[comparison.dianjing]
    best = " *" if (comparison.diffusers, comparison.dianjing) == size_results.fastest else ""
    return [
        size_results.size.name,
        comparison.diffusers.removeprefix("diffusers "),
        comparison.dianjing.removeprefix("dianjing ") + best,
        _format_ms(theirs.step_s.median),
        _format_ms(ours.step_s.median + ours.precompute_s / IMAGE_STEPS),
        _format_ratio(comparison.ratio),
        f"{theirs.forward_max_difference:.1e} / {ours.forward_max_difference:.1e}",
        f"{theirs.final_l2:.1e} / {ours.final_l2:.1e}",
    ]


def make_step_rows(sizes: Sequence[SizeResults]) -> list[list[str]]:
    return [_make_step_row(measured, comparison) for measured in sizes for comparison in measured.comparisons]


def make_image_rows(images: PipelineComparison) -> list[list[str]]:
    rows = [
        [name, *(_format_ms(picture.stage_s[stage].median) for stage in (*STAGES, "all")), f"{picture.pixels_l2:.1e}"]
        for name, picture in images.results.items()
    ]
    return [*rows, ["times as fast (quartiles)", *(_format_ratio(images.ratios[s]) for s in (*STAGES, "all")), ""]]


def describe_size(size_results: SizeResults) -> str:
    """What one size is, and what the table has no column for."""
    size, one_off = size_results.size, []
    for name, result in size_results.results.items():
        if name.endswith("compiled"):
            one_off.append(f"first call of {name} {result.first_call_s:.0f} s")
        elif result.precompute_s:
            one_off.append(f"one-off work of {name} {_format_ms(result.precompute_s)} ms for {IMAGE_STEPS} steps")
    return (
        f"{size.name}: {size.weights} weights, {size_results.num_parameters / 1e6:.1f} M parameters, "
        f"{size.config['num_layers']} layers, {size.num_image_tokens} image and {size.num_text_tokens} text tokens; "
        f"{size_results.pairs} pairs; {'; '.join(one_off)}; "
        f"both in float32 differ by {size_results.float32_max_difference:.1e} in one forward"
    )


def format_markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_report(report: BenchmarkReport, summary: str, *, format_table: Any = format_plain_table) -> str:
    """Everything for a reader; `table` is plain_table or markdown_table."""
    parts = [summary, format_table(STEP_COLUMNS, make_step_rows(report.sizes))]
    parts.append(f"{STEP_LEGEND} * the fastest of each in {report.settings.dtype}.")
    parts.append("\n".join(f"- {describe_size(measured)}" for measured in report.sizes))
    if report.images is not None:
        pictures = report.images
        parts.append(format_table(IMAGE_COLUMNS, make_image_rows(pictures)))
        parts.append(
            f"One picture of {pictures.size_px} px in {pictures.num_inference_steps} steps by each whole pipeline, encoders and VAE "
            f'shared, {pictures.pairs} interleaved pairs; "off by": relative L2 to diffusers in float32.'
        )
    return "\n\n".join(parts)


def serialize_report(report: BenchmarkReport) -> dict[str, Any]:
    """Every number, the seconds of every step among them; weights stay out."""
    return {
        "settings": asdict(report.settings),
        "machine": report.machine,
        "sizes": [_serialize_size_results(measured) for measured in report.sizes],
        "images": None if report.images is None else asdict(report.images),
    }


def _serialize_size_results(size_results: SizeResults) -> dict[str, Any]:
    size = size_results.size
    return {
        "name": size.name,
        "weights": size.weights,
        "config": dict(size.config),
        "num_parameters": size_results.num_parameters,
        "num_image_tokens": size.num_image_tokens,
        "num_text_tokens": size.num_text_tokens,
        "num_inference_steps": size.num_inference_steps,
        "pairs": size_results.pairs,
        "float32_max_difference": size_results.float32_max_difference,
        "fastest": size_results.fastest,
        "results": {name: asdict(result) for name, result in size_results.results.items()},
        "comparisons": [asdict(comparison) for comparison in size_results.comparisons],
    }
