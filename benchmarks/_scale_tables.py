"""The tables of docs/serving.md and docs/scaling.md, and their rows of the README, from the results."""

from __future__ import annotations

from typing import Any

from benchmarks._common import load


def _share(told: dict[str, Any]) -> str:
    low, high = told["interval"]
    return f"{told['median']:.0%} ({low:.0%} to {high:.0%})"


def _times(told: dict[str, Any]) -> str:
    low, high = told["interval"]
    return f"{told['median']:.1f} × ({low:.1f} to {high:.1f})"


def _best(layout: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The case of a layout with the largest share, and that share."""
    cases = {name: row["share"] for name, row in layout.items() if "share" in row}
    name = max(cases, key=lambda item: float(cases[item]["median"]))
    return name, cases[name]


def _words(case: str) -> str:
    samples, connections = case.split("x")
    return f"{connections} clients, {samples} a request" if samples != "1" else f"{connections} clients"


def serve_tables() -> str:
    """How much of ONNX Runtime is left behind HTTP."""
    result = load("serve")
    if not result:
        return ""
    lines = [
        "Beside bare calls of ONNX Runtime on the same file, one thread each. The server has the bare calls' core to "
        "itself (**one core**: HTTP and computing together), or a second one that it shares with the clients (**a core "
        f"beside it**). Medians of {result['rounds']} rounds with their intervals; a share is of the largest number of "
        "samples a second that bare calls reach at any batch size.",
        "",
        "| file | server | bare, samples/s | 64 clients, one sample a request | most | p99 at half load, over one "
        "client's median |",
        "|---|---|---:|---|---|---|",
    ]
    for name, row in result["rows"].items():
        summary = row["summary"]
        for layout in ("one core", "a core beside it"):
            found = summary[layout]
            case, share = _best(found)
            lines.append(
                f"| {name} | {layout} | {summary['bare_samples_per_s']['median']:,.0f} | "
                f"{found['1x64']['requests_per_s']['median']:,.0f} a second: {_share(found['1x64']['share'])} | "
                f"{_share(share)}, {_words(case)} | {_times(found['half load']['p99_over_single'])}; in bursts "
                f"{_times(found['half load in bursts']['p99_over_single'])} |"
            )
    burst = result["burst"]
    lines += [
        "",
        "Half load is half of what 64 clients reach, sent evenly; in bursts, the same rate from "
        f"{burst} connections at the same moment, where the last waits for the others whatever the server does.",
    ]
    return "\n".join(lines)


def turns_table() -> str:
    """What it is worth that the server's threads take shorter turns."""
    result = load("serve_turns")
    if not result:
        return ""

    def span(case: str, value: str) -> str:
        low, high = result["ratios"][case][value]["interval"]
        return f"{result['ratios'][case][value]['median']:.2f} ({low:.2f} to {high:.2f})"

    return (
        f"The server's threads take turns every {1000 * result['switch_s']:g} ms instead of Python's "
        f"{1000 * result['pythons_s']:g} (`python -m benchmarks.serve_turns`, LeNet-5 in eight bits on one core, "
        f"{len(result['rounds'])} rounds, ratios): with 64 clients p99 {span('1x64', 'p99_s')} and requests a second "
        f"{span('1x64', 'requests_per_s')}; at half load p99 {span('half load', 'p99_s')}."
    )


def serve_figures() -> list[str]:
    """Rows of the README's table."""
    result = load("serve")
    if not result:
        return []
    shares, tails = [], []
    for name in ("LeNet-5 int8", "ResNet-18 (digits) int8", "ResNet-18 (ImageNet) int8"):
        one, two = (result["rows"][name]["summary"][layout] for layout in ("one core", "a core beside it"))
        shares.append(f"{name.removesuffix(' int8')} {_best(one)[1]['median']:.0%}, {_best(two)[1]['median']:.0%}")
        tails.append(f"{one['half load']['p99_over_single']['median']:.1f} ×")
    return [
        "| `deploy serve`, INT8, beside bare ONNX Runtime at saturation: on its one core, with a core beside it | "
        f"{' · '.join(shares)} | ≥ 80 % | `benchmarks.serve` |",
        f"| p99 of an answer at half load over the median of one client alone, the same three | {' · '.join(tails)} | "
        "≤ 3 × | `benchmarks.serve` |",
    ]


def sweep_figures() -> list[str]:
    """Rows of the README's table."""
    lines = []
    if result := load("sweep"):
        overhead, ratio = result["overhead"], result["over_by_hand"]
        low, high = (100 * end for end in overhead["interval"])
        lines.append(
            f"| `deploy sweep` beyond the sum of its tasks, one machine, {len(result['rounds'])} rounds; its time over "
            "the same commands by hand | "
            f"{100 * overhead['median']:.1f} % ({low:.1f} to {high:.1f}); {ratio['median']:.2f} × "
            f"({ratio['interval'][0]:.2f} to {ratio['interval'][1]:.2f}) | ≤ 5 % | `benchmarks.sweep` |"
        )
    if result := load("sweep_simulation"):
        rows = [row for row in result["rows"] if row["order"] == "longest way first"]
        told = " · ".join(f"{row['nodes']} {_nodes(row)} {row['over_bound']['median']:.3f} ×" for row in rows)
        lines.append(
            f"| a sweep of {result['models']:,} models, simulated: its time over the lower bound | {told} | | "
            "`benchmarks.sweep_simulation` |"
        )
    return lines


def _nodes(row: dict[str, Any]) -> str:
    return "node" if row["nodes"] == 1 else "nodes"


def scaling_tables() -> str:
    """Makespans against their lower bound."""
    result = load("sweep_simulation")
    if not result:
        return ""
    lines = [
        f"{result['models']:,} models × 4 backends × 3 kinds of machines: {7 * result['models']:,} tasks; medians of "
        f"{result['seeds']} draws, least and most in brackets.",
        "",
        "| nodes | order of ready tasks | hours | over the lower bound | bound by | seconds of scheduling |",
        "|---:|---|---:|---|---|---:|",
    ]
    for row in result["rows"]:
        over, spent = row["over_bound"], row["schedule_seconds"]["median"]
        lines.append(
            f"| {row['nodes']} | {row['order']} | {row['hours']['median']:.2f} | {over['median']:.3f} × "
            f"({over['least']:.3f} to {over['most']:.3f}) | {row['bound_by']} | {spent:.1f} |"
        )
    return "\n".join(lines)
