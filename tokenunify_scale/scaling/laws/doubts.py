"""What points leave open, and what a reader of a fit should be told, in words."""

import itertools
from collections.abc import Mapping

import numpy as np

from tokenunify_scale.scaling.laws.estimate import Estimate
from tokenunify_scale.scaling.laws.extrapolate import HeldOut
from tokenunify_scale.scaling.laws.goodness import Goodness
from tokenunify_scale.scaling.laws.intervals import Interval
from tokenunify_scale.scaling.laws.law import log_predicted, log_terms

ENOUGH = 6  # sizes: with four or five, realistic noise leaves the exponent open
FLAT = 1e-3  # a term whose change over the points is below this share of L does not fall
LOOSE = 4.0  # an exponent's interval with ends this factor apart says little
RARE = 0.01  # probability below which a test speaks
GREEK = {"N": "alpha", "D": "beta"}


def doubts(found: Estimate, around: Mapping[str, Interval]) -> list[str]:
    """Why the points do not determine the law; empty where they do.

    Args:
        found: the fit.
        around: its intervals, none where nothing tells the noise.
    """
    k = found.t.shape[-1]
    predicted = np.exp(log_predicted(found.centred[None], found.t)[0])
    terms = np.exp(log_terms(found.centred[None], found.t)[0])
    for index, name in enumerate(tuple(GREEK)[:k]):
        change = float(np.ptp(terms[:, index])) / float(np.median(predicted))
        if change < FLAT:
            return [f"L does not fall with {name}"]
    words = []
    for name in tuple(GREEK.values())[:k]:
        interval = around.get(name)
        if interval is not None and not interval.identified:
            words.append(
                f"the 95 % interval of {name}, {interval.low:.3g} to {interval.high:.3g}, reaches "
                "a bound"
            )
    if found.floorless:
        words.append(
            "E came out as 0, a plain power law; larger sizes would have to show the floor"
        )
    elif "E" in around and around["E"].low == 0:
        words.append(f"E may be anything from 0 to {around['E'].high:.3g}")
    if not around:
        sizes, p = len(found.points.sizes), len(found.theta)
        words.append(f"{sizes} sizes, {p} parameters; no size is left to test the curve")
    return words


def warnings_of(
    found: Estimate,
    around: Mapping[str, Interval],
    *,
    known: Goodness,
    beyond: HeldOut | None,
) -> tuple[str, ...]:
    """What one fit's numbers should not be read without."""
    words = []
    sizes = len(found.points.sizes)
    if sizes < ENOUGH:
        words.append(f"{sizes} sizes are few: with realistic noise it takes {ENOUGH} or more")
    for name in GREEK.values():
        interval = around.get(name)
        if interval and interval.identified and interval.high > LOOSE * interval.low:
            words.append(f"{name} is known within a factor of {interval.high / interval.low:.2g}")
    if found.share < 0.05:
        words.append(f"only {found.share:.1%} of the starts reached the best minimum")
    if known.lack_of_fit is not None and known.lack_of_fit < RARE:
        words.append(
            f"the law misses the sizes' means by more than their scatter allows (p = "
            f"{known.lack_of_fit:.2g})"
        )
    if known.excess is not None and known.excess < RARE:
        words.append(
            f"residuals are larger than the stated noise allows (p = {known.excess:.2g}): the "
            "intervals are too narrow"
        )
    if beyond is not None and beyond.inside is False:
        words.append("the largest size lies outside the interval predicted from the others")
    return tuple(words)


def overlaps(around: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    """Which pairs of curves have exponents that their intervals do not tell apart.

    Overlap alone does not make two numbers equal: ``verdict`` tests the difference itself.
    """
    words = []
    for name in GREEK.values():
        known = {curve: ends[name] for curve, ends in around.items() if name in ends}
        pairs = [
            f"{one} and {other}"
            for one, other in itertools.combinations(known, 2)
            if known[one].low <= known[other].high and known[other].low <= known[one].high
        ]
        if pairs:
            text = "every two curves" if len(pairs) > 2 and len(pairs) == _all(known) else None
            text = text or ", ".join(pairs)
            words.append(f"the intervals of {name} overlap: {text}")
    return words


def _all(items: Mapping) -> int:
    return len(items) * (len(items) - 1) // 2
