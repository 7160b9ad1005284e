"""On whose terms weights are: never an open licence on what derives from another's data."""

from collections.abc import Sequence
from typing import Any

from tokenunify_scale.data.facts.labelled import MEC
from tokenunify_scale.model_card.records import Lineage
from tokenunify_scale.model_card.sources import Source

OURS = "apache-2.0"  # of the code; source: setup.py
PAPER = MEC[0].page  # whose README says that data and weights are for research only
FRESH = (
    "Apache-2.0, as the code, since fresh weights are drawn from a seed and no data went into them."
)
MADE_UP = (
    "Apache-2.0, as the code, since all training data was made up by the code itself: no data "
    "set's terms bind it."
)
BOUND = (
    "the terms of the training data, above. No open licence is put on what derives from another's "
    "data."
)
RESEARCH = f"research only, as the paper's release states for its data and weights (<{PAPER}>)."
UNKNOWN = (
    "unknown. What derives from a data set is bound by that data set's terms, and not all of them "
    "are known here: ask its keepers before you pass the weights on."
)


def licence(line: Lineage, data: Sequence[Sequence[Source]]) -> tuple[dict[str, Any], str]:
    """The licence of weights.

    Args:
        line: the runs that made them; empty for fresh ones.
        data: what each of these was trained on.

    Returns:
        What the metadata of a card says, in the hub's identifiers; and why, in a sentence.
    """
    terms = {source.terms for each in data for source in each}
    if any(stage.verb == "import_official" for stage in line.stages):
        named = {"license": "other", "license_name": "research-only", "license_link": PAPER}
        return named, RESEARCH
    if not line.stages and line.lost is None:
        return {"license": OURS}, FRESH
    if line.lost or not all(data) or "unknown" in terms:
        return {"license": "unknown"}, UNKNOWN
    if terms == {"none"}:
        return {"license": OURS}, MADE_UP
    return {"license": "other", "license_name": "terms-of-the-training-data"}, BOUND
