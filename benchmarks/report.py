"""Reports of `dianjing bench`: tables for the terminal or in Markdown, and JSON."""

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
    "speedup (quartiles)",
    "error of one forward",
    "error of final latents",
]
IMAGE_COLUMNS = ["one image", "text ms", "denoise ms", "VAE ms", "total ms", "error of pixels"]
STEP_LEGEND = (
    "A step is one forward with classifier-free guidance and the scheduler's step; medians of interleaved pairs. "
    f"Steps of Dianjing contain its precomputation, spread over {IMAGE_STEPS} steps. Errors are those of diffusers / "
    "Dianjing against diffusers in float32: largest difference relative to the largest value, and relative L2."
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """All results of one run."""

    settings: BenchmarkSettings
    machine: dict[str, Any]
    sizes: Sequence[SizeResults]
    images: PipelineComparison | None  # None without the bundled model


def _format_ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _format_ratio(ratio: Quantiles) -> str:
    return f"{ratio.median:.2f} ({ratio.quartile_1:.2f}–{ratio.quartile_3:.2f})"


def _make_step_row(size_results: SizeResults, comparison: Comparison) -> list[str]:
    diffusers, dianjing = size_results.results[comparison.diffusers], size_results.results[comparison.dianjing]
    mark = " *" if (comparison.diffusers, comparison.dianjing) == size_results.fastest else ""
    return [
        size_results.size.name,
        comparison.diffusers.removeprefix("diffusers "),
        comparison.dianjing.removeprefix("dianjing ") + mark,
        _format_ms(diffusers.step_s.median),
        _format_ms(dianjing.step_s.median + dianjing.precompute_s / IMAGE_STEPS),
        _format_ratio(comparison.ratio),
        f"{diffusers.forward_max_difference:.1e} / {dianjing.forward_max_difference:.1e}",
        f"{diffusers.final_l2:.1e} / {dianjing.final_l2:.1e}",
    ]


def make_step_rows(sizes: Sequence[SizeResults]) -> list[list[str]]:
    """Return the cells of STEP_COLUMNS for each comparison."""
    return [_make_step_row(each, comparison) for each in sizes for comparison in each.comparisons]


def make_image_rows(images: PipelineComparison) -> list[list[str]]:
    """Return the cells of IMAGE_COLUMNS for each pipeline, and a row of speedups."""
    rows = [
        [name, *(_format_ms(result.stage_s[stage].median) for stage in (*STAGES, "all")), f"{result.pixels_l2:.1e}"]
        for name, result in images.results.items()
    ]
    return [*rows, ["speedup (quartiles)", *(_format_ratio(images.ratios[s]) for s in (*STAGES, "all")), ""]]


def describe_size(size_results: SizeResults) -> str:
    """Describe a size and its results that have no column, in one line."""
    size, times = size_results.size, []
    for name, result in size_results.results.items():
        if name.endswith("compiled"):
            times.append(f"first call of {name} {result.first_call_s:.0f} s")
        elif result.precompute_s:
            times.append(f"precomputation of {name} {_format_ms(result.precompute_s)} ms for {IMAGE_STEPS} steps")
    return (
        f"{size.name}: {size.weights} weights, {size_results.num_parameters / 1e6:.1f} M parameters, "
        f"{size.config['num_layers']} layers, {size.num_image_tokens} image and {size.num_text_tokens} text tokens; "
        f"{size_results.pairs} pairs; {'; '.join(times)}; "
        f"in float32 both differ by {size_results.float32_max_difference:.1e} in one forward"
    )


def format_markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table with aligned columns for the terminal."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_report(report: BenchmarkReport, summary: str, *, format_table: Any = format_plain_table) -> str:
    """Format a report with one of the two table formats."""
    parts = [summary, format_table(STEP_COLUMNS, make_step_rows(report.sizes))]
    parts.append(f"{STEP_LEGEND} * the fastest of both in {report.settings.dtype}.")
    parts.append("\n".join(f"- {describe_size(each)}" for each in report.sizes))
    if report.images is not None:
        images = report.images
        parts.append(format_table(IMAGE_COLUMNS, make_image_rows(images)))
        parts.append(
            f"One image of {images.size_px} px in {images.num_inference_steps} steps by each pipeline with the same "
            f"encoders and VAE, {images.pairs} interleaved pairs; error: relative L2 to diffusers in float32."
        )
    return "\n\n".join(parts)


def serialize_report(report: BenchmarkReport) -> dict[str, Any]:
    """Convert a report to values for JSON, with the seconds of every step and without weights."""
    return {
        "settings": asdict(report.settings),
        "machine": report.machine,
        "sizes": [_serialize_size_results(each) for each in report.sizes],
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
