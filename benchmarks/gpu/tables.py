"""Markdown tables of the measurements; whatever a part left out or could not do is reported in its place."""

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.bench import Found
from benchmarks.pictures import STAGES
from benchmarks.report import markdown_table

NONE = "–"


def ms(seconds: float | None) -> str:
    return NONE if seconds is None else f"{1000 * seconds:.1f}"


def gib(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def share_of(part: float | None, whole: float | None) -> str:
    return NONE if not part or not whole else f"{part / whole:.0%}"


def quartiles(spread: Mapping[str, float], *, factor: float = 1.0) -> str:
    median, first, third = (factor * spread[name] for name in ("median", "quartile_1", "quartile_3"))
    return f"{median:.3g} ({first:.3g}–{third:.3g})"


def why_not(entry: Mapping[str, Any]) -> str | None:
    """The reason why there is nothing to show, if there is one."""
    if "left_out" in entry:
        return f"left out: {entry['left_out']}"
    if "error" in entry:
        return f"failed: {entry['error'].splitlines()[0][:120]}"
    return None


def ceilings_table(found: Found) -> str:
    rows = [[f"matrix product {found['matrix_side']}³, bfloat16", f"{found['matrix_flops_per_s'] / 1e12:.4g} TFLOP/s"]]
    if "copy_bytes_per_s" in found:
        rows.append(["copy, read and written", f"{found['copy_bytes_per_s'] / 1e12:.3g} TB/s"])
    for name, rate in found.get("attention_flops_per_s", {}).items():
        rows.append([f"attention, {name}", "not for this device" if rate is None else f"{rate / 1e12:.4g} TFLOP/s"])
    return markdown_table(["ceiling", "rate"], rows)


def steps_table(found: Found) -> str:
    rows = []
    for name, entry in found["implementations"].items():
        if "step_s" not in entry:
            rows.append([name, why_not(entry) or "first step only", *[NONE] * 5])
            continue
        step_s = entry["step_s"]
        rows.append([
            name, quartiles(step_s, factor=1000), share_of(found["floor_s"], step_s["median"]),
            f"{entry['first_call_s']:.1f}", ms(entry["prepare_s"] or None), f"{entry['forward_max_abs']:.1e}",
            f"{entry['forward_l2']:.1e}",
        ])  # fmt: skip
    head = ["implementation", "ms a step (quartiles)", "utilization", "first call s", "one-off ms", "max", "L2"]
    lines = [
        f"{found['flops'] / 1e12:.2f} TFLOP a step with guidance; floor {ms(found['floor_s'])} ms for the operations, "
        f"{ms(found['weights_floor_s'])} ms for reading {found['weight_bytes'] / 1e9:.2f} GB of weights once. Max and "
        f"L2: distance of one forward to diffusers in float32. Both in float32 differ by "
        f"{found['float32_max_abs']:.1e}.",
        markdown_table(head, rows),
    ]
    if found["comparisons"]:
        compared = [[each["theirs"], each["ours"], quartiles(each["ratio"])] for each in found["comparisons"]]
        lines.append(markdown_table(["diffusers", "dianjing", "times as fast (quartiles)"], compared))
    return "\n\n".join(lines)


def pictures_table(found: Found) -> str:
    rows = []
    for steps, each in found["pictures"].items():
        if "pipelines" not in each:
            rows.append([steps, why_not(each) or NONE, *[NONE] * 6])
            continue
        for name, stages in each["pipelines"].items():
            medians = {stage: stages[stage]["median"] for stage in (*STAGES, "all")}
            count = str(stages["all"]["count"])
            used = share_of(each["floor_s"], medians["all"])
            rows.append([steps, name, *(ms(medians[stage]) for stage in (*STAGES, "all")), used, count])
    head = ["steps", "pipeline", "text ms", "denoise ms", "VAE ms", "all ms", "utilization", "pictures"]
    return markdown_table(head, rows)


def placements_table(found: Found) -> str:
    rows = []
    for name, each in found["placements"].items():
        reason = why_not(each)
        if reason:
            rows.append([name, reason, *[NONE] * 5])
            continue
        rows.append([
            name, gib(each["resting_gib"]), gib(each["peak_allocated_gib"]), gib(each["peak_reserved_gib"]),
            ms(each["step_s"]), ms(each["picture_s"]), f"{each['pixels_l2']:.1e}",
        ])  # fmt: skip
    head = [
        "weights",
        "at rest GiB",
        "peak GiB",
        "peak reserved GiB",
        "step ms",
        f"{found['steps']}-step picture ms",
        "L2",
    ]
    return f"Memory: {found['processes']}. L2: distance of the pixels to the first row.\n\n{markdown_table(head, rows)}"


def training_table(found: Found) -> str:
    rows = []
    for name, each in found["rows"].items():
        reason = why_not(each)
        if reason:
            rows.append([name, reason, *[NONE] * 4])
            continue
        rows.append([
            name, quartiles(each["step_s"], factor=1000), f"{each['samples_per_s']:.3g}",
            share_of(each["floor_s"], each["step_s"]["median"]), gib(each["peak_allocated_gib"]),
            f"{each['first_step_s']:.1f}",
        ])  # fmt: skip
    head = ["trained", "ms a step (quartiles)", "samples/s", "utilization", "peak GiB", "first step s"]
    legend = (
        f"Batch {found['batch_size']} at {found['size_px']} px, rank {found['rank']}, {found['optimizer']}. The floor "
        "counts 3 forwards for all weights and 2 for LoRA; what is recomputed does not count as work."
    )
    return f"{legend}\n\n{markdown_table(head, rows)}"


def part_text(name: str, found: Found) -> str:
    """One part with its heading; what has been measured before it failed is shown as well."""
    tables = {
        "matrix_side": ceilings_table, "implementations": steps_table, "pictures": pictures_table,
        "placements": placements_table, "rows": training_table,
    }  # fmt: skip
    lines = [f"## {name}"]
    reason = why_not(found)
    if reason:
        lines.append(f"**{reason}**")
    if found.get("unfinished") and not reason:
        lines.append("**stopped before its end**")
    lines += [table(found) for key, table in tables.items() if key in found]
    return "\n\n".join(lines)


def as_text(report: Mapping[str, Any]) -> str:
    """The whole report."""
    machine = report["machine"]
    card = report["card"] or {}
    memory = f", {card['memory_gib']:.0f} GiB" if card else ""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    commit = report["commit"] or "unknown"
    head = (
        f"# {report['scale']} on {machine['device']}{memory}\n\n"
        f"{report['date']}, commit {commit}, Python {machine['python']}, {versions}. bfloat16, random weights. "
        f"{report['took_s']:.0f} s of {report['budget_s']:.0f} s."
    )
    return "\n\n".join([head, *(part_text(name, found) for name, found in report["parts"].items())])
