import numpy as np
import pytest

from tokenunify_scale.objectives.growth import growth

K = np.arange(1, 201)


def errors_of(cumulative):
    """Errors whose sum up to each position is ``cumulative``."""
    return np.diff(cumulative, prepend=0)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("scale", [1e-3, 5.0])
def test_a_power_law_gives_its_exponent_exactly(exponent, scale):
    errors = errors_of(scale * K**exponent)[None].repeat(4, 0)
    found = growth(errors)
    assert found == pytest.approx((exponent,) * 3, abs=1e-9)


def test_the_fit_is_least_squares_on_logarithms():
    errors = np.random.default_rng(0).random((5, 200))
    line = np.polyfit(np.log(K), np.log(errors.mean(0).cumsum()), 1)
    assert growth(errors).exponent == pytest.approx(line[0])


def test_a_logarithm_grows_slower_than_any_root():
    assert growth(errors_of(1 + np.log(K))[None]).exponent < 0.3


def test_the_interval_is_that_of_crops_drawn_again():
    exponents = np.linspace(0.8, 1.2, 6)
    errors = np.stack([errors_of(K**e) for e in exponents])
    rng = np.random.default_rng(0)
    found = growth(errors, draws=500)
    drawn = [growth(errors[rng.integers(0, 6, 6)], draws=1).exponent for _ in range(500)]
    assert found.low < found.exponent < found.high
    assert found[1:] == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)
    assert found == growth(errors, draws=500)


def test_a_crop_alone_has_no_interval():
    found = growth(errors_of(K**1.5)[None])
    assert found.exponent == pytest.approx(1.5)
    assert np.isnan(found.low) and np.isnan(found.high)


def test_the_difference_of_two_methods_is_drawn_on_the_same_crops():
    hard = np.random.default_rng(0).uniform(0.5, 1.5, 6)  # exponents of crops
    one = np.stack([errors_of(K**e) for e in hard])
    same = growth(one, minus=one * 3)
    assert same == pytest.approx((0, 0, 0), abs=1e-9)
    two = np.stack([errors_of(K ** (e + 0.25)) for e in hard])
    found = growth(two, minus=one)
    apart = growth(two)
    assert 0.2 < found.low <= found.exponent <= found.high
    assert found.high - found.low < apart.high - apart.low


def test_positions_before_each_crop_has_an_error_are_left_out():
    errors = errors_of(K.astype(float))[None].repeat(3, 0)
    errors[0, :10] = 0
    known = np.log(errors.mean(0).cumsum()[10:])
    assert growth(errors).exponent == pytest.approx(np.polyfit(np.log(K[10:]), known, 1)[0])


@pytest.mark.parametrize("errors", [np.zeros((3, 20)), np.ones((3, 1))])
def test_no_error_and_a_single_position_have_no_exponent(errors):
    assert np.isnan(growth(errors)).all()


@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 0)])
def test_what_is_no_table_of_crops_and_positions_is_refused(shape):
    with pytest.raises(ValueError, match="crops, positions"):
        growth(np.zeros(shape))
