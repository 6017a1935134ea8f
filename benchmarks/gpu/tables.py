"""Markdown tables of the measurements, with the reasons of what was skipped or failed."""

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.runner import Results
from benchmarks.images import STAGES
from benchmarks.report import format_markdown_table

NONE = "–"


def format_ms(seconds: float | None) -> str:
    """Format seconds as milliseconds."""
    return NONE if seconds is None else f"{1000 * seconds:.1f}"


def format_gib(value: float | None) -> str:
    """Format a number of GiB."""
    return NONE if value is None else f"{value:.2f}"


def format_share(part: float | None, total: float | None) -> str:
    """Format part / total in percent."""
    return NONE if not part or not total else f"{part / total:.0%}"


def format_quartiles(quantiles: Mapping[str, float], *, factor: float = 1.0) -> str:
    """Format a median with its quartiles."""
    median, first, third = (factor * quantiles[name] for name in ("median", "quartile_1", "quartile_3"))
    return f"{median:.3g} ({first:.3g}–{third:.3g})"


def get_reason(entry: Mapping[str, Any]) -> str | None:
    """Return why there is no result, or None if there is one."""
    if "skipped" in entry:
        return f"skipped: {entry['skipped']}"
    if "error" in entry:
        return f"failed: {entry['error'].splitlines()[0][:120]}"
    return None


def format_ceilings(results: Results) -> str:
    """Format the rates of the device."""
    matrix_rate = f"{results['matrix_flops_per_s'] / 1e12:.4g} TFLOP/s"
    rows = [[f"matrix product {results['matrix_side']}³, bfloat16", matrix_rate]]
    if "copy_bytes_per_s" in results:
        rows.append(["copy, read and written", f"{results['copy_bytes_per_s'] / 1e12:.3g} TB/s"])
    for name, rate in results.get("attention_flops_per_s", {}).items():
        rows.append([f"attention, {name}", "not supported" if rate is None else f"{rate / 1e12:.4g} TFLOP/s"])
    return format_markdown_table(["ceiling", "rate"], rows)


def format_steps(results: Results) -> str:
    """Format the step times of the implementations and their ratios."""
    rows = []
    for name, entry in results["implementations"].items():
        if "step_s" not in entry:
            rows.append([name, get_reason(entry) or "first step only", *[NONE] * 5])
            continue
        step_s = entry["step_s"]
        rows.append(
            [
                name,
                format_quartiles(step_s, factor=1000),
                format_share(results["min_s"], step_s["median"]),
                f"{entry['first_call_s']:.1f}",
                format_ms(entry["precompute_s"] or None),
                f"{entry['forward_max_difference']:.1e}",
                f"{entry['forward_l2']:.1e}",
            ]
        )
    head = ["implementation", "ms a step (quartiles)", "utilization", "first call s", "precompute ms", "max", "L2"]
    lines = [
        f"{results['flops'] / 1e12:.2f} TFLOP a step with guidance: at least {format_ms(results['min_s'])} ms; "
        f"{results['weight_bytes'] / 1e9:.2f} GB of weights, read once: {format_ms(results['weights_min_s'])} ms. "
        "Max and L2: distance of one forward to diffusers in float32. In float32 both differ by "
        f"{results['float32_max_difference']:.1e}.",
        format_markdown_table(head, rows),
    ]
    if results["comparisons"]:
        ratios = [
            [each["diffusers"], each["dianjing"], format_quartiles(each["ratio"])] for each in results["comparisons"]
        ]
        lines.append(format_markdown_table(["diffusers", "dianjing", "speedup (quartiles)"], ratios))
    return "\n\n".join(lines)


def format_images(results: Results) -> str:
    """Format the stages of the pipelines."""
    rows = []
    for steps, each in results["images"].items():
        if "pipelines" not in each:
            rows.append([steps, get_reason(each) or NONE, *[NONE] * 6])
            continue
        for name, stages in each["pipelines"].items():
            medians = {stage: stages[stage]["median"] for stage in (*STAGES, "all")}
            count = str(stages["all"]["count"])
            used = format_share(each["min_s"], medians["all"])
            rows.append([steps, name, *(format_ms(medians[stage]) for stage in (*STAGES, "all")), used, count])
    head = ["steps", "pipeline", "text ms", "denoise ms", "VAE ms", "all ms", "utilization", "images"]
    return format_markdown_table(head, rows)


def format_placements(results: Results) -> str:
    """Format memory and time of the placements."""
    rows = []
    for name, each in results["placements"].items():
        reason = get_reason(each)
        if reason:
            rows.append([name, reason, *[NONE] * 5])
            continue
        rows.append(
            [
                name,
                format_gib(each["idle_gib"]),
                format_gib(each["peak_allocated_gib"]),
                format_gib(each["peak_reserved_gib"]),
                format_ms(each["step_s"]),
                format_ms(each["image_s"]),
                f"{each['pixels_l2']:.1e}",
            ]
        )
    head = [
        "weights",
        "idle GiB",
        "peak GiB",
        "peak reserved GiB",
        "step ms",
        f"{results['steps']}-step image ms",
        "L2",
    ]
    legend = f"Memory: {results['processes']}. L2: distance of the pixels to the first row."
    return f"{legend}\n\n{format_markdown_table(head, rows)}"


def format_training(results: Results) -> str:
    """Format the training steps of the variants."""
    rows = []
    for name, each in results["variants"].items():
        reason = get_reason(each)
        if reason:
            rows.append([name, reason, *[NONE] * 4])
            continue
        rows.append(
            [
                name,
                format_quartiles(each["step_s"], factor=1000),
                f"{each['samples_per_s']:.3g}",
                format_share(each["min_s"], each["step_s"]["median"]),
                format_gib(each["peak_allocated_gib"]),
                f"{each['first_step_s']:.1f}",
            ]
        )
    head = ["trained", "ms a step (quartiles)", "samples/s", "utilization", "peak GiB", "first step s"]
    legend = (
        f"Batch {results['batch_size']} at {results['size_px']} px, rank {results['rank']}, {results['optimizer']}. "
        "Utilization counts 3 forwards for all weights and 2 for LoRA, and none for recomputation."
    )
    return f"{legend}\n\n{format_markdown_table(head, rows)}"


def format_part(name: str, results: Results) -> str:
    """Format one part with a heading, including the measurements before a failure."""
    tables = {
        "matrix_side": format_ceilings,
        "implementations": format_steps,
        "images": format_images,
        "placements": format_placements,
        "variants": format_training,
    }
    lines = [f"## {name}"]
    reason = get_reason(results)
    if reason:
        lines.append(f"**{reason}**")
    if results.get("unfinished") and not reason:
        lines.append("**stopped before the end**")
    lines += [table(results) for key, table in tables.items() if key in results]
    return "\n\n".join(lines)


def format_gpu_report(report: Mapping[str, Any]) -> str:
    """Format a report as Markdown."""
    machine = report["machine"]
    card = report["card"] or {}
    memory = f", {card['memory_gib']:.0f} GiB" if card else ""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    commit = report["commit"] or "unknown"
    head = (
        f"# {report['scale']} on {machine['device']}{memory}\n\n"
        f"{report['date']}, commit {commit}, Python {machine['python']}, {versions}. bfloat16, random weights. "
        f"{report['elapsed_s']:.0f} s of {report['budget_s']:.0f} s."
    )
    return "\n\n".join([head, *(format_part(name, results) for name, results in report["parts"].items())])
