"""Scores of a segmentation, where it errs, and the table of overlaps that both are made of."""

from tokenunify_scale.metrics.matches import ERRORS, Matches
from tokenunify_scale.metrics.mistakes import Mistake, worst
from tokenunify_scale.metrics.overlaps import Counter, Overlaps, score
from tokenunify_scale.metrics.scores import Score, Units

__all__ = [
    "ERRORS",
    "Counter",
    "Matches",
    "Mistake",
    "Overlaps",
    "Score",
    "Units",
    "score",
    "worst",
]
