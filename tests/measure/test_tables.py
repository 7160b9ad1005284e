import pytest

from tokenunify_scale.measure.step import KINDS, OTHER
from tokenunify_scale.measure.tables import (
    gpu_step_table,
    scan_findings,
    scan_tables,
    step_findings,
    step_tables,
    stock_table,
)

RATES = {"exponentials": 9.5e9, "multiply_adds": 1e11, "moved_bytes": 1.3e10,
         "near_bytes": 8e10}


def floor_row(channels, length, seconds):
    orders = {"forward": seconds, "reverse": 2 * seconds, "interleaved": 3 * seconds}
    return {
        "channels": channels,
        "length": length,
        "seconds": orders,
        "floor": 0.01,
        "rates": RATES,
        "roofline": 0.004,
    }


SCAN = {
    "stages": 1,
    "memory": 5.5,
    "floors": [floor_row(64, 51200, 0.02), floor_row(64, 1600, 0.03)],
    "causal_convolutions": [
        {"channels": 64, "length": 51200, "seconds": {"ours": 0.01, "torch": 0.07}}],
    "baselines": [
        {"channels": 64, "length": 1600,
         "seconds": {"ours": 0.002, "per-step loop": 3.0, "parallel scan": 0.05}},
        {"channels": 64, "length": 51200, "seconds": {"ours": 0.05, "parallel scan": 4.0}},
    ],
}  # fmt: skip


def mamba_row(count, rest, products):
    return {
        "shape": [1, 32, 8, 80, 80],
        "count": count,
        "layer": rest + 1,
        "kernels": 1.0,
        "rest": rest,
        "products": products,
    }


def convolution_row(count, ours, contiguous, last):
    return {
        "what": "1x5x5, 2 to 4",
        "shape": [1, 2, 3, 4, 5],
        "count": count,
        "seconds": {"ours": ours, "contiguous": contiguous, "channels last": last},
    }


STEP = {
    "seconds": 11.0,
    "breakdown": {**dict.fromkeys([*KINDS, OTHER], 1.0), "scan": 2.0, OTHER: 3.0 - 2.0},
    "mamba": [mamba_row(1, 3.0, 1.0), mamba_row(2, 1.0, 1.0)],
    "convolutions": [convolution_row(2, 1.0, 2.0, 0.5), convolution_row(1, 1.0, 1.0, 4.0)],
}


def ratios(findings):
    return [round(finding.value, 6) for finding in findings]


def test_a_scans_ratios_are_others_over_ours_and_ours_over_the_floor():
    found = scan_findings(SCAN)
    assert ratios(found) == [1500, 25, 80, 2, 5.5]
    assert [finding.kind for finding in found] == [
        "per-step loop",
        "parallel scan, short",
        "parallel scan, long",
        "floor",
        "memory",
    ]


def test_only_the_stages_are_held_against_the_floor():
    both = scan_findings({**SCAN, "stages": 2})
    assert [f.value for f in both if f.kind == "floor"] == pytest.approx([2, 3])


def test_memory_that_is_not_known_is_said_and_not_judged():
    unknown = {**SCAN, "memory": None}
    assert "memory" not in [finding.kind for finding in scan_findings(unknown)]
    assert "not measured" in scan_tables(unknown)


def test_the_scans_tables_name_shapes_orders_and_ratios():
    text = scan_tables(SCAN)
    assert "9.5 G exponentials/s" in text and "13.0 GB/s" in text
    line = next(line for line in text.splitlines() if line.startswith("(1, 64, 51200)"))
    assert line.split()[3:] == ["20", "40", "60", "10", "2.00", "6.10", "5.00"]
    line = next(line for line in text.splitlines() if "per-step loop" in line)
    assert line.split()[-2:] == ["3000", "1500.0"]


def test_a_steps_ratios_weigh_layers_by_how_often_they_are_called():
    found = step_findings({"steps": {"fp32": STEP}})
    assert ratios(found) == [round(3 / 9, 6), round(5 / 3, 6), round(3 / 2, 6)]
    assert [f.kind for f in found] == ["scan and conv1d", "rest of the Mamba block", "convolutions"]


def test_the_steps_tables_show_shares_and_the_longest_convolutions():
    many = {**STEP, "convolutions": [convolution_row(1, i, i, 2 * i) for i in range(1, 30)]}
    text = step_tables({"steps": {"fp32": STEP, "bf16": many}})
    assert "training step in fp32" in text and "training step in bf16" in text
    assert "22.2%" in text
    rows = [line for line in text.split("convolutions in bf16")[1].splitlines() if " x " in line]
    assert len(rows) == 12 and rows[0].split()[-4:] == ["29000", "29000", "58000", "1.00"]
    assert text.splitlines()[-1].split() == ["all", "29", "435000", "435000", "870000", "1.00"]


def test_on_a_gpu_ours_stands_beside_the_stock_kernel_and_the_peak():
    row = {
        "channels": 64,
        "length": 1600,
        "flop": 1.95e9,
        "seconds": {"ours": 1e-3, "mamba-ssm": 2e-3},
    }
    text = stock_table([row], device="NVIDIA A100-SXM4-80GB")
    assert text.split()[-8:] == ["1600)", "1", "2", "0.50", "1.95", "TFLOP/s,", "MFU", "10.0%"]
    text = gpu_step_table({"bf16": {"seconds": 0.1, "flop": 3.12e12}}, device="NVIDIA A100")
    assert "31.20 TFLOP/s, MFU 10.0%" in text
