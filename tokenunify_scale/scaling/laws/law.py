"""The two forms of a scaling law, L(N) and L(N, D), in logarithms: values and gradients.

A law of ``k`` variables is held as a row of ``p = 2 k + 1`` logarithms: of the coefficients (A, B),
of the exponents (alpha, beta) and of E. All functions take any number of rows at once, so that a
grid of starts or a thousand resamples cost one pass of array arithmetic.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NAMES = {1: ("A", "alpha", "E"), 2: ("A", "B", "alpha", "beta", "E")}
EXPONENTS = (1e-2, 10.0)
NOTHING = 1e-6  # a term below this share of L everywhere counts as zero
FLOOR = 16.0  # how far below the lowest ln L the logarithm of E may go; e^-16 is nothing


def log_terms(theta: Array, t: Array) -> Array:
    """Logarithms of a law's terms.

    Args:
        theta: [M, p] logarithms of coefficients, exponents and E.
        t: [M or 1, n, k] logarithms of the variables.

    Returns:
        [M, n, k + 1]; the last is E.
    """
    k = t.shape[-1]
    powers = theta[:, None, :k] - np.exp(theta[:, None, k : 2 * k]) * t
    floor = np.broadcast_to(theta[:, None, 2 * k :], (*powers.shape[:2], 1))
    return np.concatenate([powers, floor], axis=-1)


def log_predicted(theta: Array, t: Array) -> Array:
    """ln L [M, n] by log-sum-exp; arguments as ``log_terms``."""
    terms = log_terms(theta, t)
    top = terms.max(axis=-1)
    return top + np.log(np.exp(terms - top[..., None]).sum(axis=-1))


def predicted_and_slopes(theta: Array, t: Array) -> tuple[Array, Array]:
    """ln L [M, n], and its gradient [M, n, p] over the row of logarithms."""
    k = t.shape[-1]
    terms = log_terms(theta, t)
    top = terms.max(axis=-1, keepdims=True)
    shares = np.exp(terms - top)
    total = shares.sum(axis=-1, keepdims=True)
    shares /= total
    by_exponent = -shares[..., :k] * np.exp(theta[:, None, k : 2 * k]) * t
    slopes = np.concatenate([shares[..., :k], by_exponent, shares[..., k:]], axis=-1)
    return (top + np.log(total))[..., 0], slopes


def shares_of_terms(theta: Array, t: Array) -> Array:
    """Largest share [M, k + 1] that each term has in L at any of the points."""
    terms = log_terms(theta, t)
    return np.exp(terms - np.logaddexp.reduce(terms, axis=-1)[..., None]).max(axis=1)


def move_origin(theta: Array, shift: Array) -> Array:
    """The same laws after ``t`` was lowered by ``shift`` [k]: coefficients change, no more."""
    k = len(shift)
    moved = np.array(theta, dtype=np.float64)
    moved[..., :k] -= np.exp(moved[..., k : 2 * k]) * shift
    return moved


def limits(t: Array, log_y: Array) -> Array:
    """Bounds [p, 2] of the logarithms, which hold back only exponents and a vanished E.

    Args:
        t: [1, n, k] logarithms of the variables.
        log_y: [M, n] logarithms of the losses.
    """
    k = t.shape[-1]
    low, high = float(log_y.min()), float(log_y.max())
    reach = EXPONENTS[1] * float(np.abs(t).max()) + 25
    return np.array(
        [(low - reach, high + reach)] * k
        + [tuple(np.log(EXPONENTS))] * k
        + [(low - FLOOR, high + 1)]
    )


def named(theta: Array, *, k: int) -> dict[str, float]:
    """A row of logarithms as numbers by name."""
    return {name: math.exp(v) for name, v in zip(NAMES[k], np.ravel(theta), strict=True)}


def logarithms(parameters: Mapping[str, float], *, k: int) -> Array:
    """The row [p] of ``named``'s numbers; that of an E of 0 is minus infinity."""
    with np.errstate(divide="ignore"):
        return np.log([parameters[name] for name in NAMES[k]])
