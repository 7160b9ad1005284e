"""Which initialisation is better, where, by how much, and whether size will change it."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenunify_scale.scaling.laws.differences import (
    Difference,
    Trend,
    differences,
    holm,
    mean_difference,
    pair,
    trend,
)
from tokenunify_scale.scaling.laws.points import Points
from tokenunify_scale.scaling.laws.shared import Shared, share_exponent


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two curves, where they share sizes. Negative differences: the first is better."""

    first: str
    second: str
    how: str
    """How runs were put side by side; why they could not be."""
    sizes: tuple[Difference, ...] = ()
    mean: Difference | None = None
    """Over the sizes, each counting the same."""
    trend: Trend | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs say of the curves, and what they do not. Lower losses are better."""

    noise: float | None
    """Stated standard deviation of a run."""
    comparisons: tuple[Comparison, ...]
    shared: Shared
    tests: int
    """Differences at single sizes that were looked at, for which Holm's correction is."""

    def to_dict(self) -> dict[str, Any]:
        """All numbers, nothing rounded, as JSON takes them."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Lines for the screen and the report."""
        lines = [_source(self), *_summary(self.comparisons)]
        for one in self.comparisons:
            lines += ["", *_details(one)]
        return "\n".join([*lines, "", _exponents(self.shared)])


def verdict(groups: Mapping[str, Points], *, noise: float | None = None) -> Verdict:
    """Compare every two curves.

    Args:
        groups: curves by name.
        noise: standard deviation of a run in units of L, where it is known; without it, it is taken
            from runs of the same size.
    """
    pairs = list(itertools.combinations(groups, 2))
    found = [_compare(a, b, groups=groups, noise=noise) for a, b in pairs]
    tested = [d for one in found for d in one.sizes if d.p is not None]
    means = [one.mean for one in found if one.mean is not None and one.mean.p is not None]
    # Single sizes are one family of tests, means over sizes are another.
    adjusted = {id(d): p for d, p in zip(tested, holm([d.p for d in tested]), strict=True)}
    adjusted |= {id(d): p for d, p in zip(means, holm([d.p for d in means]), strict=True)}
    done = [
        dataclasses.replace(
            one,
            sizes=tuple(_corrected(d, adjusted) for d in one.sizes),
            mean=_corrected(one.mean, adjusted) if one.mean else None,
        )
        for one in found
    ]
    return Verdict(
        noise=noise,
        comparisons=tuple(done),
        shared=share_exponent(groups, noise=noise),
        tests=len(tested),
    )


def _compare(a: str, b: str, *, groups: Mapping[str, Points], noise: float | None) -> Comparison:
    if groups[a].x.shape[1] != groups[b].x.shape[1]:
        return Comparison(first=a, second=b, how="they do not have the same variables")
    paired = pair(groups[a], groups[b], noise=noise)
    if paired is None:
        return Comparison(first=a, second=b, how="they have no size in common")
    return Comparison(
        first=a,
        second=b,
        how=paired.how,
        sizes=differences(paired),
        mean=mean_difference(paired),
        trend=trend(paired),
    )


def _corrected(difference: Difference, adjusted: Mapping[int, float]) -> Difference:
    return dataclasses.replace(difference, p_holm=adjusted.get(id(difference)))


def _source(found: Verdict) -> str:
    source = (
        f"the stated {found.noise:g} of a run"
        if found.noise
        else "runs of the same size, pooled over sizes"
    )
    return (
        f"Noise: {source}. Intervals are of 95 %, each by itself; a difference is called "
        f"significant after Holm's correction for {found.tests} differences at single sizes, and "
        f"for the means of {len(found.comparisons)} pairs apart from these. Lower is better."
    )


def _summary(comparisons: Sequence[Comparison]) -> list[str]:
    """What is significant and what is not, a line each."""
    lines = []
    for one in comparisons:
        both = f"{one.first} and {one.second}"
        if one.mean is None:
            lines.append(f"{both}: nothing can be said, for {one.how}")
            continue
        better, worse = (one.first, one.second) if one.mean.value < 0 else (one.second, one.first)
        told = sum(bool(d.significant) for d in one.sizes)
        alone = sum(d.p is not None and d.p < 0.05 for d in one.sizes)
        where = f"significant at {told} of {len(one.sizes)} sizes"
        where += f" ({alone} before the correction)" if alone > told else ""
        if all(d.p is None for d in one.sizes):
            where = "of single sizes nothing can be said: one run each, and no noise is stated"
        if one.mean.significant:
            lines.append(f"{better} is better than {worse} on average; {where}")
        elif one.mean.significant is None:
            lines.append(f"{both}: nothing can be said; one run each, and no noise is stated")
        else:
            lines.append(f"{both}: no significant difference on average; {where}")
    return lines


def _details(one: Comparison) -> list[str]:
    lines = [f"{one.first} - {one.second} ({one.how})"]
    if one.mean is None:
        return lines
    for d in one.sizes:
        at = " x ".join(f"{value:.4g}" for value in d.size)
        lines.append(f"  size {at}: {_difference(d)}")
    lines.append(f"  mean over sizes: {_difference(one.mean)}")
    return [*lines, f"  {_trend(one)}"]


def _difference(d: Difference) -> str:
    if d.p is None:
        return f"{d.value:+.4g}, no interval: one run each, and no noise is stated"
    word = "significant" if d.significant else "not significant"
    return f"{d.value:+.4g} ({d.low:+.4g} to {d.high:+.4g}), {_p(d.p)}, {word}"


def _p(value: float) -> str:
    return f"p {value:.2g}" if value >= 0.001 else "p < 0.001"


def _trend(one: Comparison) -> str:
    if one.trend is None:
        return "trend with size: not known, for want of sizes or of a known noise"
    t = one.trend
    said = "" if t.p < 0.05 else ", not told from none"
    slope = f"trend: {t.slope:+.3g} with each tenfold size ({t.low:+.3g} to {t.high:+.3g}){said}"
    if not one.mean.significant:
        return f"{slope}; no advantage is established whose growth could be judged"
    better = one.first if one.mean.value < 0 else one.second
    return (
        f"{slope}; the advantage of {better} grows with probability {t.grows:.0%}, stays "
        f"{t.stays:.0%}, shrinks {t.shrinks:.0%} (stays: changes by less than {t.band:.2g}, a "
        "quarter of it, over the sizes measured; flat prior)"
    )


def _exponents(shared: Shared) -> str:
    if not shared.possible:
        return f"One exponent for all: not possible, because {shared.reason}"
    ends = f"{shared.low:.3g} to {shared.high:.3g}"
    ends = ends if shared.identified else f"not identified: {ends}, a bound"
    return (
        f"One exponent for all, own E and A: alpha {shared.alpha:.3g} ({ends}); {shared.reason} "
        f"({_p(shared.p)}, {shared.test})"
    )
