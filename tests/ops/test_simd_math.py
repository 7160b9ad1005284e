import numpy as np
import pytest
from numba import njit, types

from tokenunify_scale.ops.simd import Lanes, host_register, width
from tokenunify_scale.ops.simd_math import exp2, exp2_product, fill, sigmoid, softplus
from tokenunify_scale.ops.simd_memory import at, load_some, store_some

FUNCTIONS = {
    "exp2": np.exp2,
    "exp2_product": np.exp2,
    "softplus": lambda x: np.logaddexp(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def kernel(lanes, x, out, which):
    for i in range(0, len(x), width(lanes)):
        value = load_some(lanes, at(x, (i,)), len(x) - i)
        if which == 0:
            value = exp2(value)
        elif which == 1:
            value = exp2_product(value, fill(lanes, 1.0))
        elif which == 2:
            value = softplus(value)
        else:
            value = sigmoid(value)
        store_some(at(out, (i,)), len(x) - i, value)


def compiled(function, lanes, *extra):
    array = types.Array(lanes.numba_type.scalar, 1, "A")
    return njit(types.void(lanes.numba_type, array, array, *extra))(function)


@pytest.fixture(scope="module", params=[(np.float32, 64), (np.float32, 32), (np.float32, 16),
                                        (np.float64, 64), (np.float64, 16)], ids=str)
def evaluate(request):
    lanes = Lanes(*request.param)
    function = compiled(kernel, lanes, types.intp)

    def run(name, x):
        x = np.asarray(x, lanes.dtype)
        out = np.empty_like(x)
        function(lanes, x, out, list(FUNCTIONS).index(name))
        return out

    run.dtype = lanes.dtype
    return run


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_accurate_to_a_few_roundings_of_their_argument(evaluate, name):
    x = np.linspace(-20, 20, 10_001).astype(evaluate.dtype)
    expected = FUNCTIONS[name](x.astype(np.float64))
    unit = np.finfo(evaluate.dtype).eps
    tolerance = (4 + np.abs(x)) * unit if evaluate.dtype == np.float32 else 4e-14
    assert (np.abs(evaluate(name, x) - expected) <= tolerance * np.abs(expected)).all()


def test_decays_near_one_carry_no_bias(evaluate):
    x = -np.logspace(-6, -1, 500).astype(evaluate.dtype)
    expected = np.exp2(x.astype(np.float64))
    error = (evaluate("exp2", x) - expected).astype(np.float64)
    assert abs(error.mean()) < 0.1 * np.finfo(evaluate.dtype).eps
    assert evaluate("exp2", [0.0])[0] == 1


@pytest.mark.parametrize("name", ["exp2", "softplus", "sigmoid"])
def test_extremes_saturate_and_nan_stays(evaluate, name):
    high, low = evaluate(name, [1e30, -1e30])
    assert low == 0
    assert high == {"exp2": np.inf, "softplus": evaluate.dtype.type(1e30), "sigmoid": 1}[name]
    assert np.isnan(evaluate(name, [np.nan, -np.nan])).all()


def test_the_host_has_a_register_of_a_known_width():
    assert host_register() in (16, 32, 64)
