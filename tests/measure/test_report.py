import pytest

from tokenunify_scale.measure.report import Finding, counts, milliseconds, table, verdicts


@pytest.mark.parametrize(
    "target, value, met",
    [
        ("floor", 2.2, True), ("floor", 2.21, False), ("per-step loop", 1000.0, True),
        ("per-step loop", 999.0, False), ("floor", float("nan"), False),
    ],
)  # fmt: skip
def test_a_target_is_a_limit_that_is_itself_allowed(target, value, met):
    finding = Finding("x", value, target)
    assert finding.met is met
    assert finding.record()["met"] is met
    assert verdicts([finding]).endswith("PASS" if met else "FAIL")


def test_a_verdict_says_what_was_measured_and_what_was_asked():
    text = verdicts([Finding("share of fp32", 0.25, "scan and conv1d")])
    words = text.splitlines()[1].split()
    assert words == ["share", "of", "fp32", "25.0%", "at", "most", "20.0%", "FAIL"]


def test_what_is_not_judged_has_a_value_and_no_target():
    finding = Finding("x", 9.0, "floor", judged=False)
    assert finding.met is None and finding.record()["target"] is None
    assert verdicts([finding]).splitlines()[1].split() == ["x", "9.00"]


def test_columns_are_as_wide_as_their_longest_cell():
    assert table(["a", "long"], [["bcd", "1"], ["e", "23456"]]).splitlines() == [
        "a     long",
        "bcd      1",
        "e    23456",
    ]


@pytest.mark.parametrize("seconds, text", [(0.00123456, "1.235"), (0.5, "500"), (12.3456, "12346")])
def test_times_have_few_digits(seconds, text):
    assert milliseconds(seconds) == text


def test_findings_are_counted_where_a_target_holds():
    met, missed = Finding("x", 1.0, "floor"), Finding("x", 9.0, "floor")
    silent = Finding("x", 9.0, "floor", judged=False)
    assert counts([met, missed, silent]) == {"targets_met": 1, "targets": 2}
    assert counts([silent]) == counts([]) == {}
