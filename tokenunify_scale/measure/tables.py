"""What was measured as text, and what of it has a target."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tokenunify_scale.measure.devices import utilisation
from tokenunify_scale.measure.report import Finding, milliseconds, table
from tokenunify_scale.measure.step import KINDS, OTHER, PRECISIONS

SHOWN = 12  # convolutions; the file has all of them
Row = Mapping[str, Any]


def scan_tables(measured: Row) -> str:
    """The tables of ``benchmark scan`` on a CPU."""
    rates = measured["floors"][0]["rates"]
    blocks = [
        f"this machine now: {rates['exponentials'] / 1e9:.1f} G exponentials/s, "
        f"{rates['multiply_adds'] / 1e9:.0f} G multiply-adds/s, copies of "
        f"{rates['moved_bytes'] / 1e9:.1f} GB/s",
        _floors(measured["floors"]),
        _baselines(measured["baselines"]),
        _convolutions(measured["causal_convolutions"]),
    ]
    if measured["memory"] is None:
        blocks.append("peak memory: not measured, this system has no /proc/self/clear_refs")
    return "\n\n".join(blocks)


def scan_findings(measured: Row) -> list[Finding]:
    """What of ``benchmark scan`` has a target."""
    found = []
    short, long = measured["baselines"]
    for row, name, target in (
        (short, "per-step loop", "per-step loop"),
        (short, "parallel scan", "parallel scan, short"),
        (long, "parallel scan", "parallel scan, long"),
    ):
        ratio = row["seconds"][name] / row["seconds"]["ours"]
        found.append(Finding(f"{name} / ours at {_shape(row)}", ratio, target))
    stages = measured["floors"][: measured["stages"]]
    found += [
        Finding(f"ours / floor at {_shape(row)}", row["seconds"]["forward"] / row["floor"], "floor")
        for row in stages
    ]
    if measured["memory"] is not None:
        found.append(
            Finding(
                f"peak extra memory / bytes of u at {_shape(long)}", measured["memory"], "memory"
            )
        )
    return found


def stock_table(rows: Sequence[Row], *, device: str) -> str:
    """The table of ``benchmark scan`` on a GPU: ours beside mamba-ssm's kernel."""
    lines = []
    for row in rows:
        ours, stock = row["seconds"]["ours"], row["seconds"]["mamba-ssm"]
        used = utilisation(row["flop"], ours, device=device, dtype=torch.float32)
        lines.append(
            [_shape(row), milliseconds(ours), milliseconds(stock), f"{ours / stock:.2f}", used]
        )
    return table(
        ["forward + backward, fp32", "ours ms", "mamba-ssm ms", "ratio", "ours achieves"], lines
    )


def step_tables(measured: Row) -> str:
    """The tables of ``benchmark step`` on a CPU."""
    blocks = []
    for name, step in measured["steps"].items():
        parts = step["breakdown"]
        total = sum(parts.values())
        rows = [
            [kind, milliseconds(parts[kind]), f"{parts[kind] / total:.1%}"]
            for kind in (*KINDS, OTHER)
        ]
        rows.append(["profiled step", milliseconds(total), ""])
        rows.append(["step, median", milliseconds(step["seconds"]), ""])
        blocks.append(table([f"training step in {name}", "ms", "share"], rows))
        blocks.append(_mamba(step["mamba"], name))
        blocks.append(_layouts(step["convolutions"], name))
    return "\n\n".join(blocks)


def step_findings(measured: Row) -> list[Finding]:
    """What of ``benchmark step`` has a target."""
    found = []
    for name, step in measured["steps"].items():
        parts = step["breakdown"]
        share = (parts["scan"] + parts["conv1d"]) / sum(parts.values())
        found.append(Finding(f"scan + conv1d / step, {name}", share, "scan and conv1d"))
        rest, products = (
            sum(row["count"] * row[key] for row in step["mamba"]) for key in ("rest", "products")
        )
        found.append(
            Finding(
                f"rest of the Mamba blocks / their matmuls, {name}",
                rest / products,
                "rest of the Mamba block",
            )
        )
        ours = sum(row["count"] * row["seconds"]["ours"] for row in step["convolutions"])
        best = sum(row["count"] * _best(row) for row in step["convolutions"])
        found.append(
            Finding(f"convolutions / torch's best layout, {name}", ours / best, "convolutions")
        )
    return found


def gpu_step_table(steps: Mapping[str, Row], *, device: str) -> str:
    """The table of ``benchmark step`` on a GPU."""
    rows = [
        [
            name,
            milliseconds(step["seconds"]),
            utilisation(step["flop"], step["seconds"], device=device, dtype=PRECISIONS[name]),
        ]
        for name, step in steps.items()
    ]
    return table(["training step", "ms", "achieves (fp32: cuDNN may take TF32)"], rows)


def _shape(row: Row) -> str:
    return f"(1, {row['channels']}, {row['length']})"


def _best(row: Row) -> float:
    return min(seconds for name, seconds in row["seconds"].items() if name != "ours")


def _floors(rows: Sequence[Row]) -> str:
    orders = list(rows[0]["seconds"])
    heads = [
        "scan, forward + backward: ms",
        *orders,
        "floor",
        "x floor",
        "ns/(step channel)",
        "x roofline",
    ]
    return table(
        heads,
        [
            [
                _shape(row),
                *(milliseconds(row["seconds"][order]) for order in orders),
                milliseconds(row["floor"]),
                f"{row['seconds']['forward'] / row['floor']:.2f}",
                f"{row['seconds']['forward'] / row['channels'] / row['length'] * 1e9:.2f}",
                f"{row['seconds']['forward'] / row['roofline']:.2f}",
            ]
            for row in rows
        ],
    )


def _baselines(rows: Sequence[Row]) -> str:
    lines = [
        [f"{_shape(row)} {name}", milliseconds(seconds), f"{seconds / row['seconds']['ours']:.1f}"]
        for row in rows
        for name, seconds in row["seconds"].items()
    ]
    return table(["scan, forward + backward", "ms", "x ours"], lines)


def _convolutions(rows: Sequence[Row]) -> str:
    lines = [
        [
            _shape(row),
            milliseconds(row["seconds"]["ours"]),
            milliseconds(row["seconds"]["torch"]),
            f"{row['seconds']['torch'] / row['seconds']['ours']:.1f}",
        ]
        for row in rows
    ]
    return table(["causal conv1d + SiLU, forward + backward: ms", "ours", "torch", "x ours"], lines)


def _mamba(rows: Sequence[Row], name: str) -> str:
    heads = [
        f"Mamba layers in {name}: ms",
        "layer",
        "scan + conv1d",
        "rest",
        "matmuls alone",
        "rest / matmuls",
    ]
    return table(
        heads,
        [
            [
                f"{row['count']} x {row['shape']}",
                *(milliseconds(row[key]) for key in ("layer", "kernels", "rest", "products")),
                f"{row['rest'] / row['products']:.2f}",
            ]
            for row in rows
        ],
    )


def _layouts(rows: Sequence[Row], name: str) -> str:
    """The convolutions that take longest, and all of them together."""
    kinds = list(rows[0]["seconds"])
    ordered = sorted(rows, key=lambda row: -row["count"] * row["seconds"]["ours"])
    lines = [
        [
            f"{row['count']} x {row['what']} of {row['shape'][2:]}",
            *(milliseconds(row["seconds"][kind]) for kind in kinds),
            f"{row['seconds']['ours'] / _best(row):.2f}",
        ]
        for row in ordered[:SHOWN]
    ]
    times = {kind: sum(row["count"] * row["seconds"][kind] for row in rows) for kind in kinds}
    best = sum(row["count"] * _best(row) for row in rows)
    return table(
        [f"convolutions in {name}: ms", *kinds, "ours / best"],
        [
            *lines,
            [
                f"all {sum(row['count'] for row in rows)}",
                *(milliseconds(seconds) for seconds in times.values()),
                f"{times['ours'] / best:.2f}",
            ],
        ],
    )
