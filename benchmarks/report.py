"""Measurements as tables for a terminal or for Markdown, and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contenders import PICTURE_STEPS
from benchmarks.measure import Comparison, Measured, Settings
from benchmarks.pictures import STAGES, Pictures
from benchmarks.timing import Spread

STEP_HEAD = [
    "model", "diffusers", "dianjing", "diffusers ms/step", "dianjing ms/step", "times as fast (quartiles)",
    "one forward off by", "final latents off by",
]  # fmt: skip
PICTURE_HEAD = ["one picture", "text ms", "denoise ms", "VAE ms", "all ms", "pixels off by"]
STEP_LEGEND = (
    "A step is one forward for two prompts with guidance and the scheduler's step; medians of interleaved pairs. "
    f"Ours contains its one-off work, spread over {PICTURE_STEPS} steps. \"Off by\" is the distance to diffusers in "
    "float32, theirs / ours: largest difference relative to the largest value, and relative L2."
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that one run found."""

    settings: Settings
    machine: dict[str, Any]
    sizes: Sequence[Measured]
    pictures: Pictures | None  # None without the embedded bundle


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def _spread(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.quartile_1:.2f}–{ratio.quartile_3:.2f})"


def _step_row(measured: Measured, comparison: Comparison) -> list[str]:
    theirs, ours = measured.results[comparison.theirs], measured.results[comparison.ours]
    best = " *" if (comparison.theirs, comparison.ours) == measured.fastest else ""
    return [
        measured.size.name,
        comparison.theirs.removeprefix("diffusers "),
        comparison.ours.removeprefix("dianjing ") + best,
        _ms(theirs.step_s.median),
        _ms(ours.step_s.median + ours.prepare_s / PICTURE_STEPS),
        _spread(comparison.ratio),
        f"{theirs.forward_max_abs:.1e} / {ours.forward_max_abs:.1e}",
        f"{theirs.final_l2:.1e} / {ours.final_l2:.1e}",
    ]


def step_rows(sizes: Sequence[Measured]) -> list[list[str]]:
    return [_step_row(measured, comparison) for measured in sizes for comparison in measured.comparisons]


def picture_rows(pictures: Pictures) -> list[list[str]]:
    rows = [
        [name, *(_ms(picture.stage_s[stage].median) for stage in (*STAGES, "all")), f"{picture.pixels_l2:.1e}"]
        for name, picture in pictures.pictures.items()
    ]
    return [*rows, ["times as fast (quartiles)", *(_spread(pictures.ratios[s]) for s in (*STAGES, "all")), ""]]


def size_line(measured: Measured) -> str:
    """What one size is, and what the table has no column for."""
    size, one_off = measured.size, []
    for name, result in measured.results.items():
        if name.endswith("compiled"):
            one_off.append(f"first call of {name} {result.first_call_s:.0f} s")
        elif result.prepare_s:
            one_off.append(f"one-off work of {name} {_ms(result.prepare_s)} ms for {PICTURE_STEPS} steps")
    return (
        f"{size.name}: {size.weights} weights, {measured.parameters / 1e6:.1f} M parameters, "
        f"{size.config['num_layers']} layers, {size.num_image_tokens} image and {size.num_text_tokens} text tokens; "
        f"{measured.pairs} pairs; {'; '.join(one_off)}; "
        f"both in float32 differ by {measured.float32_max_abs:.1e} in one forward"
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_text(report: Report, summary: str, *, table: Any = plain_table) -> str:
    """Everything for a reader; `table` is plain_table or markdown_table."""
    parts = [summary, table(STEP_HEAD, step_rows(report.sizes))]
    parts.append(f"{STEP_LEGEND} * the fastest of each in {report.settings.dtype}.")
    parts.append("\n".join(f"- {size_line(measured)}" for measured in report.sizes))
    if report.pictures is not None:
        pictures = report.pictures
        parts.append(table(PICTURE_HEAD, picture_rows(pictures)))
        parts.append(
            f"One picture of {pictures.size_px} px in {pictures.steps} steps by each whole pipeline, encoders and VAE "
            f"shared, {pictures.pairs} interleaved pairs; \"off by\": relative L2 to diffusers in float32."
        )  # fmt: skip
    return "\n\n".join(parts)


def as_json(report: Report) -> dict[str, Any]:
    """Every number, the seconds of every step among them; weights stay out."""
    return {
        "settings": asdict(report.settings),
        "machine": report.machine,
        "sizes": [_size_json(measured) for measured in report.sizes],
        "pictures": None if report.pictures is None else asdict(report.pictures),
    }


def _size_json(measured: Measured) -> dict[str, Any]:
    size = measured.size
    return {
        "name": size.name,
        "weights": size.weights,
        "config": dict(size.config),
        "parameters": measured.parameters,
        "num_image_tokens": size.num_image_tokens,
        "num_text_tokens": size.num_text_tokens,
        "steps": size.steps,
        "pairs": measured.pairs,
        "float32_max_abs": measured.float32_max_abs,
        "fastest": measured.fastest,
        "results": {name: asdict(result) for name, result in measured.results.items()},
        "comparisons": [asdict(comparison) for comparison in measured.comparisons],
    }
