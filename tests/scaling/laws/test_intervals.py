import numpy as np
import pytest
from scipy.optimize import curve_fit

from tokenunify_scale.scaling.laws.estimate import estimate
from tokenunify_scale.scaling.laws.fit import fit_law
from tokenunify_scale.scaling.laws.intervals import profile
from tokenunify_scale.scaling.laws.law import logarithms
from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.laws.region import region
from tokenunify_scale.scaling.laws.solve import minimise, starts

TRUTH = {"A": 50.0, "alpha": 0.3, "E": 1.0}
BOTH = {"A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366, "E": 1.817}


def sample(rng, *, sd, sizes=7, runs=3):
    x = np.geomspace(1e6, 1e9, sizes).repeat(runs)
    return Points(x=x, y=(1 + 50 * x**-0.3) * np.exp(sd * rng.normal(size=len(x))))


def sample_both(rng, *, sd):
    axes = np.geomspace(4e7, 1.6e10, 6), np.geomspace(1e9, 1e12, 6)
    x = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    law = 1.817 + 482 * x[:, 0] ** -0.348 + 2085 * x[:, 1] ** -0.366
    return Points(x=x, y=law * np.exp(sd * rng.normal(size=len(x))))


def held(make, truth, *, trials, seed):
    """How often each planted parameter lies in the fit's own interval."""
    rng = np.random.default_rng(seed)
    count = dict.fromkeys(truth, 0)
    for _ in range(trials):
        intervals = fit_law(make(rng), resamples=0).intervals
        for name, value in truth.items():
            count[name] += intervals[name].low <= value <= intervals[name].high
    return count


def test_planted_parameters_lie_in_their_intervals():
    count = held(lambda rng: sample(rng, sd=0.01), TRUTH, trials=6, seed=0)
    assert min(count.values()) >= 5


def test_many_sets_at_once_hold_the_planted_exponent_nineteen_times_in_twenty():
    rng, trials = np.random.default_rng(3), 80
    points = sample(rng, sd=0.0)
    log_x = np.log(points.x)
    log_y = np.log(points.y) + 0.01 * rng.normal(size=(trials, len(points.y)))
    shift = log_x.mean(axis=0)
    t = (log_x - shift)[None]
    begin = starts(t, log_y[0])[::4]
    theta = minimise(t, log_y, begin=begin).theta
    found = region(t, log_y, theta=theta, begin=begin, noise=None)
    ends, _ = profile(t, log_y, shift=shift, found=found, which=(0, 1, 2))
    truth = logarithms(TRUTH, k=1)
    inside = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
    assert np.all(inside.mean(axis=0) > 0.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, truth", [(sample, TRUTH), (sample_both, BOTH)], ids=["L(N)", "L(N, D)"]
)
@pytest.mark.parametrize("sd", [0.005, 0.02])
def test_planted_parameters_lie_in_their_intervals_in_90_of_100_trials(make, truth, sd):
    count = held(lambda rng: make(rng, sd=sd), truth, trials=100, seed=1)
    assert min(count.values()) >= 90, count


def test_for_small_noise_the_interval_is_that_of_least_squares():
    points = sample(np.random.default_rng(5), sd=0.001, sizes=8)
    fit = fit_law(points, noise=None, resamples=0)

    def log_l(x, ln_a, ln_alpha, ln_e):
        return np.log(np.exp(ln_e) + np.exp(ln_a) * x ** -np.exp(ln_alpha))

    at, covariance = curve_fit(log_l, points.x[:, 0], np.log(points.y), np.log([50, 0.3, 1]))
    half = np.log(fit.intervals["alpha"].high / fit.intervals["alpha"].low) / 2
    # 2.23: t at 96 % and 16 degrees of freedom.
    assert half == pytest.approx(2.23 * np.sqrt(covariance[1, 1]), rel=0.2)


def test_an_interval_does_not_depend_on_units():
    points = sample(np.random.default_rng(6), sd=0.02)
    one = fit_law(points, resamples=0).intervals
    other = fit_law(Points(x=points.x * 1e3, y=points.y * 1e-6), resamples=0).intervals
    assert other["alpha"].low == pytest.approx(one["alpha"].low, rel=1e-3)
    assert other["E"].high == pytest.approx(1e-6 * one["E"].high, rel=1e-3)


def test_gross_outliers_hardly_move_an_interval():
    points = sample(np.random.default_rng(7), sd=0.01, sizes=8, runs=6)
    y = points.y.copy()
    y[[4, 30]] *= 3
    clean, dirty = (fit_law(Points(x=points.x, y=v), resamples=0) for v in (points.y, y))
    for name in TRUTH:
        one, other = clean.intervals[name], dirty.intervals[name]
        assert other.low <= TRUTH[name] <= other.high
        assert np.log(other.high / other.low) < 1.6 * np.log(one.high / one.low)


def test_a_side_that_the_points_leave_open_ends_at_its_bound_and_says_so():
    x = np.geomspace(500, 4500, 4)
    fit = fit_law(Points(x=x, y=0.92 + 100 * x**-0.93), noise=0.05, resamples=0)
    alpha = fit.intervals["alpha"]
    assert not alpha.identified and alpha.high == 10.0 and not fit.intervals["A"].identified
    assert fit.intervals["E"].low == 0.0


def test_an_interval_holds_its_estimate():
    for seed in range(3):
        fit = fit_law(sample(np.random.default_rng(seed), sd=0.02, runs=1), resamples=0)
        assert all(i.low <= getattr(fit, name) <= i.high for name, i in fit.intervals.items())


def test_profile_ends_are_where_the_refitted_misfit_reaches_its_limit():
    points = sample(np.random.default_rng(8), sd=0.01)
    found = estimate(points)
    ends, open_side = profile(
        found.t, found.log_y[None], shift=found.shift, found=found.region, which=(1,)
    )
    assert not open_side.any()
    from scipy.optimize import minimize

    from tokenunify_scale.scaling.laws.law import log_predicted
    from tokenunify_scale.scaling.laws.solve import huber

    def misfit(rest, exponent):
        theta = np.array([[rest[0], exponent, rest[1]]])
        z = (log_predicted(theta, found.t)[0] - found.log_y) / found.region.scale[0]
        return huber(z, found.region.corner).sum()

    best = found.region.theta[0]
    for end in ends[0, 0]:
        done = minimize(
            misfit, best[[0, 2]], args=(end,), method="Nelder-Mead", options={"xatol": 1e-9}
        )
        above = 2 * (done.fun - found.region.loss[0]) * found.region.factor[0]
        assert above == pytest.approx(found.region.limit, rel=0.01)
