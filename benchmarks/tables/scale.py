"""Tables of docs/serving.md and docs/scaling.md, and their rows in the README."""

from __future__ import annotations

from typing import Any

from benchmarks.common import load

LAYOUTS = {"one core": "one core", "a core beside it": "two cores"}
"""Names of the server's cores in the results and in the tables."""


def _share(estimate: dict[str, Any]) -> str:
    low, high = estimate["interval"]
    return f"{estimate['median']:.0%} ({low:.0%} to {high:.0%})"


def _times(estimate: dict[str, Any]) -> str:
    low, high = estimate["interval"]
    return f"{estimate['median']:.1f} × ({low:.1f} to {high:.1f})"


def _best(layout: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the case of a layout with the largest share, and that share."""
    cases = {name: row["share"] for name, row in layout.items() if "share" in row}
    name = max(cases, key=lambda item: float(cases[item]["median"]))
    return name, cases[name]


def _load_name(case: str) -> str:
    samples, connections = case.split("x")
    return f"{connections} clients, {samples} samples per request" if samples != "1" else f"{connections} clients"


def serve_tables() -> str:
    """Return the table of the server's throughput relative to ONNX Runtime in process."""
    result = load("serve")
    if not result:
        return ""
    lines = [
        "Compared with ONNX Runtime in process, on the same file with one thread. The server runs on the same core "
        "(**one core**, for HTTP and inference), or also on a second core that it shares with the clients (**two "
        f"cores**). Medians of {result['rounds']} rounds with 95 % intervals; shares are relative to the highest "
        "in-process throughput at any batch size.",
        "",
        "| file | server | in process, samples/s | 64 clients, one sample per request | highest share | p99 at half "
        "load, relative to the median of one client |",
        "|---|---|---:|---|---|---|",
    ]
    for name, row in result["rows"].items():
        summary = row["summary"]
        for layout, title in LAYOUTS.items():
            cases = summary[layout]
            case, share = _best(cases)
            lines.append(
                f"| {name} | {title} | {summary['bare_samples_per_s']['median']:,.0f} | "
                f"{cases['1x64']['requests_per_s']['median']:,.0f} per second: {_share(cases['1x64']['share'])} | "
                f"{_share(share)}, {_load_name(case)} | {_times(cases['half load']['p99_over_single'])}; in bursts "
                f"{_times(cases['half load in bursts']['p99_over_single'])} |"
            )
    burst = result["burst"]
    lines += [
        "",
        "Half load is half the throughput of 64 clients, with evenly spaced requests. In bursts: the same rate from "
        f"{burst} connections at the same moment, where the last request always waits for the others.",
    ]
    return "\n".join(lines)


def turns_table() -> str:
    """Return the effect of the shorter thread switch interval of the server."""
    result = load("serve_turns")
    if not result:
        return ""

    def span(case: str, value: str) -> str:
        low, high = result["ratios"][case][value]["interval"]
        return f"{result['ratios'][case][value]['median']:.2f} ({low:.2f} to {high:.2f})"

    return (
        f"The server sets Python's thread switch interval to {1000 * result['switch_s']:g} ms instead of "
        f"{1000 * result['pythons_s']:g} ms. Ratios over {len(result['rounds'])} rounds, LeNet-5 in INT8 on one core "
        f"(`python -m benchmarks.serve_turns`): p99 {span('1x64', 'p99_s')} and requests per second "
        f"{span('1x64', 'requests_per_s')} with 64 clients; p99 {span('half load', 'p99_s')} at half load."
    )


def attack_text() -> str:
    """Return what the server did under attack."""
    result = load("serve_attack")
    if not result:
        return ""
    attacked, stop = result["attacked"], result["stop"]
    return (
        f"Under attack for {result['seconds'] / 60:g} minutes, from {result['connections']} connections "
        f"({sum(attacked['attacks'].values()):,} attacks of {len(attacked['attacks'])} kinds), the server on one core "
        f"answered {attacked['answered']:,} of {result['requests']:,} checked requests, {attacked['wrong']} of them "
        f"wrong. Health answers took at most {1000 * attacked['health_max_s']:.0f} ms (p99 "
        f"{1000 * attacked['health_p99_s']:.0f} ms), and the peak memory was {result['memory_ratio']:.2f} times that "
        f"of an undisturbed server. After SIGTERM under load it stopped in {stop['stop_s']:.1f} s; "
        f"{stop['lost']} accepted requests were not answered."
    )


def serve_figures() -> list[str]:
    """Return rows of the table of docs/figures.md."""
    result = load("serve")
    if not result:
        return []
    shares, tails = [], []
    for name in ("LeNet-5 int8", "ResNet-18 (digits) int8", "ResNet-18 (ImageNet) int8"):
        one, two = (result["rows"][name]["summary"][layout] for layout in LAYOUTS)
        shares.append(f"{name.removesuffix(' int8')} {_best(one)[1]['median']:.0%}, {_best(two)[1]['median']:.0%}")
        tails.append(f"{one['half load']['p99_over_single']['median']:.1f} ×")
    return [
        "| throughput of `deploy serve` relative to ONNX Runtime in process, INT8: one core, two cores | "
        f"{' · '.join(shares)} | ≥ 80 % | `benchmarks.serve` |",
        f"| p99 at half load relative to the median of one client, one core, the same files | {' · '.join(tails)} | "
        "≤ 3 × | `benchmarks.serve` |",
    ]


def sweep_figures() -> list[str]:
    """Return rows of the table of docs/figures.md."""
    lines = []
    if result := load("sweep"):
        overhead, ratio = result["overhead"], result["over_by_hand"]
        low, high = (100 * end for end in overhead["interval"])
        lines.append(
            f"| overhead of `deploy sweep` over the sum of its tasks, one machine, {len(result['rounds'])} rounds; "
            "time relative to the same commands by hand | "
            f"{100 * overhead['median']:.1f} % ({low:.1f} to {high:.1f}); {ratio['median']:.2f} × "
            f"({ratio['interval'][0]:.2f} to {ratio['interval'][1]:.2f}) | ≤ 5 % | `benchmarks.sweep` |"
        )
    if result := load("sweep_simulation"):
        rows = [row for row in result["rows"] if row["order"] == "critical path"]
        ratios = " · ".join(f"{row['nodes']} {_nodes(row)} {row['over_bound']['median']:.3f} ×" for row in rows)
        lines.append(
            f"| simulated sweep of {result['models']:,} models: time relative to the lower bound | {ratios} | | "
            "`benchmarks.sweep_simulation` |"
        )
    return lines


def _nodes(row: dict[str, Any]) -> str:
    return "node" if row["nodes"] == 1 else "nodes"


def scaling_tables() -> str:
    """Return the table of makespans relative to their lower bound."""
    result = load("sweep_simulation")
    if not result:
        return ""
    lines = [
        f"{result['models']:,} models × 4 backends × 3 kinds of machines: {7 * result['models']:,} tasks; medians of "
        f"{result['seeds']} draws, minimum and maximum in parentheses.",
        "",
        "| nodes | order of ready tasks | hours | relative to the lower bound | bound by | seconds of scheduling |",
        "|---:|---|---:|---|---|---:|",
    ]
    for row in result["rows"]:
        over, spent = row["over_bound"], row["schedule_seconds"]["median"]
        lines.append(
            f"| {row['nodes']} | {row['order']} | {row['hours']['median']:.2f} | {over['median']:.3f} × "
            f"({over['min']:.3f} to {over['max']:.3f}) | {row['bound_by']} | {spent:.1f} |"
        )
    return "\n".join(lines)
