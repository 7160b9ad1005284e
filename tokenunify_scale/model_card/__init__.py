"""Model cards from what was measured; "not measured" where nothing was."""

from tokenunify_scale.model_card.card import card
from tokenunify_scale.model_card.procedure import UNKNOWN
from tokenunify_scale.model_card.scores import SCORES
from tokenunify_scale.model_card.texts import template

__all__ = ["SCORES", "UNKNOWN", "card", "template"]
