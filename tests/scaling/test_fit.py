import json
import math

import numpy as np
import pytest
from scipy.optimize import check_grad, differential_evolution

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scaling.fit import (
    _loss,
    describe,
    fit_csv,
    fit_power_law,
    predict,
    read_points,
    write_fits,
)

SIZES = np.geomspace(1e5, 1e9, 8)


def curve(sizes, *, E, A, alpha):
    return list(zip(sizes, E + A * sizes**-alpha, strict=True))


@pytest.mark.parametrize(
    "E, A, alpha", [(1.0, 50.0, 0.3), (0.5, 3.0, 0.1), (1.2, 400.0, 0.5), (1.69, 406.4, 0.34)]
)
def test_planted_parameters_come_back(E, A, alpha):
    fit = fit_power_law(curve(SIZES, E=E, A=A, alpha=alpha))
    assert (fit.E, fit.alpha) == pytest.approx((E, alpha), rel=1e-6)
    assert fit.A == pytest.approx(A, rel=1e-5)
    assert fit.identified and fit.sizes == 8 and fit.share > 0.5
    assert predict(fit, SIZES) == pytest.approx(E + A * SIZES**-alpha)


def test_the_minimum_is_the_one_that_a_global_search_finds():
    noise = np.exp(0.03 * np.random.default_rng(1).normal(size=8))
    points = [
        (x, y * k) for (x, y), k in zip(curve(SIZES, E=1, A=50, alpha=0.3), noise, strict=True)
    ]
    fit = fit_power_law(points)
    log_x, log_y = np.log(points).T
    arguments = (log_x - log_x.mean(), log_y, 1e-3)
    bounds = [(-8, 3), (-8, 1), (math.log(0.01), math.log(10))]
    oracle = differential_evolution(
        lambda p: _loss(p, *arguments)[0], bounds, rng=0, tol=1e-12, maxiter=400, polish=False
    )
    assert fit.huber <= oracle.fun * (1 + 1e-4)
    assert fit.alpha == pytest.approx(math.exp(oracle.x[2]), rel=0.02)


def test_one_run_gone_wrong_hardly_moves_the_curve():
    points = curve(SIZES, E=1, A=50, alpha=0.3)
    points[3] = (points[3][0], points[3][1] * 1.5)
    assert fit_power_law(points).alpha == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("delta", [1e-3, 0.1])
def test_the_gradient_is_that_of_the_loss(delta):
    rng = np.random.default_rng(0)
    t, log_y = rng.normal(size=6), rng.normal(size=6) / 10
    at = np.array([-0.4, -0.9, -0.7])
    error = check_grad(
        lambda p: _loss(p, t, log_y, delta)[0], lambda p: _loss(p, t, log_y, delta)[1], at
    )
    assert error < 1e-4 / delta


def test_two_sizes_give_a_guide_and_no_law():
    fit = fit_power_law([(10, 2.0), (10, 2.0), (1000, 1.0)])
    assert not fit.identified and fit.E is fit.A is fit.alpha is None
    assert "not identified: 2 sizes, 3 parameters" in fit.verdict and "guide" in fit.verdict
    assert predict(fit, [10, 100, 1000]) == pytest.approx([2, math.sqrt(2), 1])


@pytest.mark.parametrize(
    "points, words",
    [
        ([(10, 2.0)], "1 size, 3 parameters"),
        (curve(SIZES[:3], E=1, A=50, alpha=0.3), "3 sizes, 3 parameters"),
        (curve(SIZES[:5], E=1, A=50, alpha=0.3), "5 sizes, 3 parameters"),
        ([(x, 2.0) for x in SIZES], "does not fall"),
        (curve(SIZES, E=0, A=50, alpha=0.3), "E came out as 0"),
    ],
)
def test_what_the_points_do_not_determine_is_said_in_words(points, words):
    fit = fit_power_law(points)
    assert not fit.identified and fit.verdict.startswith("not identified") and words in fit.verdict


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(10, -1.0)], [(10, math.nan)]])
def test_points_that_have_no_logarithm_are_refused(points):
    with pytest.raises(DataError, match="positive and finite"):
        fit_power_law(points)


def test_any_csv_is_read_by_groups_and_empty_cells_are_left_out(tmp_path):
    file = tmp_path / "points.csv"
    file.write_text("N,loss,init,part\n10,2,mae,a\n1000,1,mae,a\n10,,mae,a\n10,3,random,a\n")
    assert read_points(file, x="N", y="loss", group="init,part") == {
        "mae a": [(10, 2), (1000, 1)],
        "random a": [(10, 3)],
    }
    fits = fit_csv(file, x="N", y="loss")
    assert fits[""].points == 3
    write_fits(fits, tmp_path / "fit.json")
    assert json.loads((tmp_path / "fit.json").read_text())[""]["verdict"] in describe(fits)


def test_a_wrong_table_is_refused_by_name(tmp_path):
    file = tmp_path / "points.csv"
    file.write_text("size,loss\n10,2\n20,many\n")
    with pytest.raises(ConfigError, match="'sizes'.*did you mean 'size'"):
        read_points(file, x="sizes", y="loss")
    with pytest.raises(DataError, match="row 3.*many"):
        read_points(file, x="size", y="loss")
    with pytest.raises(DataError, match="no such file"):
        read_points(tmp_path / "none.csv", x="size", y="loss")
