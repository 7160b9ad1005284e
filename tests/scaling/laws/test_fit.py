import json

import numpy as np
import pytest

from tokenunify_scale.scaling.laws.fit import band, describe, fit_csv, fit_law, predict, write_fits
from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.pages.published import figure6

SIZES = np.geomspace(1e5, 1e9, 8)
BOTH = {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658, "E": 1.8172}


def curve(sizes=SIZES, *, E=1.0, A=50.0, alpha=0.3):
    return Points(x=sizes, y=E + A * sizes**-alpha)


def iso_flop_points(*, sd=0.01, outliers=6, seed=0):
    """A set like that of Hoffmann et al. 2022: 245 points on nine budgets, some gone wrong."""
    rng = np.random.default_rng(seed)
    flops = np.repeat(np.geomspace(6e18, 3e21, 9), 28)[:245]
    n = np.clip(np.sqrt(flops / 120) * np.exp(0.9 * rng.normal(size=245)), 4e7, 1.6e10)
    d = flops / 6 / n
    law = 1.8172 + 482.01 * n**-0.3478 + 2085.43 * d**-0.3658
    y = law * np.exp(sd * rng.normal(size=245))
    y[rng.choice(245, outliers, replace=False)] *= 1.25
    return Points(x=np.stack([n, d], axis=-1), y=y)


@pytest.mark.parametrize(
    "E, A, alpha", [(1.0, 50.0, 0.3), (0.5, 3.0, 0.1), (1.2, 400.0, 0.5), (1.69, 406.4, 0.34)]
)
@pytest.mark.parametrize("unit, scale", [(1.0, 1.0), (1e3, 1e-12)])
def test_planted_parameters_come_back_at_any_scale(E, A, alpha, unit, scale):
    plain = curve(E=E, A=A, alpha=alpha)
    fit = fit_law(Points(x=plain.x * unit, y=plain.y * scale), resamples=0)
    assert (fit.E, fit.alpha) == pytest.approx((E * scale, alpha), rel=1e-6)
    assert fit.A == pytest.approx(A * scale * unit**alpha, rel=1e-5)
    assert fit.identified and fit.sizes == 8 and fit.share > 0.5
    assert predict(fit, plain.x[:, 0] * unit) == pytest.approx(plain.y * scale)


def test_a_published_design_with_outliers_gives_the_planted_law_back():
    fit = fit_law(iso_flop_points(), resamples=60)
    assert fit.identified and fit.points == 245
    for name, value in BOTH.items():
        assert fit.intervals[name].low <= value <= fit.intervals[name].high
    assert fit.alpha == pytest.approx(0.3478, abs=0.04)
    assert fit.beta == pytest.approx(0.3658, abs=0.04) and fit.E == pytest.approx(1.817, abs=0.06)
    assert 0.008 < fit.errors["alpha"] < 0.04
    low, high = band(fit, [[1e9, 1e11], [7e10, 1.4e12]])
    middle = predict(fit, [[1e9, 1e11], [7e10, 1.4e12]])
    assert np.all(low < middle) and np.all(middle < high)


def test_two_sizes_give_a_guide_and_no_law():
    fit = fit_law(Points(x=[10, 10, 1000], y=[2, 2, 1]))
    assert not fit.identified and fit.E is fit.A is fit.alpha is None
    assert "not identified: 2 sizes, 3 parameters" in fit.verdict and "guide" in fit.verdict
    assert predict(fit, [10, 100, 1000]) == pytest.approx([2, np.sqrt(2), 1])
    assert band(fit, [10]) is None


def test_one_size_gives_nothing():
    fit = fit_law(Points(x=[10], y=[2]))
    assert predict(fit, [10]) is None and describe({"": fit}).startswith("all: not identified: 1 s")


def test_a_floor_that_vanished_is_zero_and_the_curve_still_stands():
    fit = fit_law(curve(E=0.0), resamples=0)
    assert fit.E == 0.0 and not fit.identified and "E came out as 0" in fit.verdict
    assert predict(fit, SIZES) == pytest.approx(50 * SIZES**-0.3, rel=1e-5)


def test_one_run_gone_wrong_hardly_moves_the_curve():
    points = curve()
    y = points.y.copy()
    y[3] *= 1.5
    assert fit_law(Points(x=points.x, y=y), resamples=0).alpha == pytest.approx(0.3, rel=0.02)


def test_the_exponents_of_the_paper_are_not_identified_at_its_own_noise():
    fits = {name: fit_law(p, noise=0.046) for name, p in figure6("mamba", x="gmacs").items()}
    own = fits["tokenunify"].intervals["alpha"]
    assert not any(fit.identified for fit in fits.values())
    assert own.low == pytest.approx(0.1, abs=0.05) and own.high == 10 and not own.identified
    text = describe(fits)
    assert "alpha not identified" in text and "the intervals of alpha overlap: every two" in text
    low, high = band(fits["tokenunify"], [503, 4524])
    assert np.all(high - low > 0.03)


def test_a_csv_is_fitted_by_groups_and_written_in_full(tmp_path):
    file = tmp_path / "points.csv"
    rows = [f"{n},{6 * n * d},{1 + 9 * n**-0.3 + 5 * d**-0.4}" for n in SIZES for d in SIZES]
    file.write_text("\n".join(["N,C,loss", *rows]))
    fits = fit_csv(file, x=["N"], y="loss", flops="C")
    assert fits[""].beta == pytest.approx(0.4, rel=1e-5)
    write_fits(fits, tmp_path / "fit.json")
    record = json.loads((tmp_path / "fit.json").read_text())[""]
    assert record["alpha"] == fits[""].alpha and "draws" not in record
    assert record["intervals"]["E"]["method"] == "profile likelihood"


def test_the_same_seed_gives_the_same_fit():
    points = Points(x=SIZES, y=curve().y * [1, 1.01, 0.99, 1.02, 1, 0.98, 1, 1.01])
    assert fit_law(points, resamples=20) == fit_law(points, resamples=20)
