"""How fast an error grows with the length of what is predicted: an exponent, with its interval."""

from typing import NamedTuple

import numpy as np

DRAWS = 2000
INTERVAL = 0.95


class Growth(NamedTuple):
    """``p`` of errors that add up as ``k ** p``; nan where the data does not say."""

    exponent: float
    """1 for an error that is the same at each position, 0.5 for sqrt(k), near 0 for log(k), above
    1 for errors that feed on each other."""

    low: float
    """The interval's lower end; nan for a single crop."""

    high: float
    """Its upper end."""


def growth(
    errors: np.ndarray,
    *,
    minus: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Growth:
    """Fit the growth of the cumulative error: least squares of log error against log k.

    The line goes through the mean of all crops; the interval holds 95 % of the fits to as many
    crops drawn with replacement (bootstrap), as crops differ and positions of a crop do not vary
    independently.

    Args:
        errors: [B, n] >= 0, a row a crop, in the order of prediction.
        minus: errors of another method on the same crops: its exponent is taken off, draw by draw,
            so that what makes a crop hard for both cancels out.
        draws: of crops.
        seed: of the draws.

    Raises:
        ValueError: ``errors`` is not [B, n] with at least one crop and position.
    """
    if errors.ndim != 2 or not errors.size:
        raise ValueError(f"errors are [crops, positions], got {errors.shape}")
    count = len(errors)
    shares = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    weights = np.concatenate([np.ones((1, count)), shares]) / count
    found = _exponents(errors, weights)
    if minus is not None:
        found = found - _exponents(minus, weights)
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(found[1:], (tail, 1 - tail)) if count > 1 else (np.nan, np.nan)
    return Growth(float(found[0]), float(low), float(high))


def _curves(errors: np.ndarray, weights: np.ndarray) -> tuple[int, np.ndarray]:
    """Weighted mean cumulative errors, from the first position where each crop has one.

    Before it a curve through some of the crops may be 0, and has no logarithm.
    """
    cumulative = np.cumsum(np.asarray(errors, np.float64), axis=1)
    start = int(np.count_nonzero(~(cumulative > 0).all(0)))
    return start, weights @ cumulative[:, start:]


def _exponents(errors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The slope for each row of weights [.., B]."""
    start, curves = _curves(errors, weights)
    if curves.shape[1] < 2:
        return np.full(len(weights), np.nan)
    places = np.log(np.arange(start, errors.shape[1]) + 1)
    centred = places - places.mean()
    return np.log(curves) @ centred / (centred @ centred)
