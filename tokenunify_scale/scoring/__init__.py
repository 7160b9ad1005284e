"""Hold a segmentation against the ground truth, part by part, and show what is wrong where."""

from tokenunify_scale.scoring.choice import Choice
from tokenunify_scale.scoring.scoring import Scoring

__all__ = ["Choice", "Scoring"]
