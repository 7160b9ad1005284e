"""Write the cards of Table 6's sizes again: python -m tokenunify_scale.model_card"""

import torch

from tokenunify_scale.model_card.card import card
from tokenunify_scale.model_card.texts import template_path
from tokenunify_scale.models import build_model
from tokenunify_scale.models.load import parameters_of

SIZES = ("tiny", "small", "middle", "large", "huge")


def size_cards() -> dict[str, str]:
    """The cards of ``model_cards/`` by the name of their network."""
    cards = {}
    for name in (f"emmamba_{size}" for size in SIZES):
        with torch.device("meta"):
            parameters = parameters_of(build_model(name))
        cards[name] = card(model=name, parameters=parameters, folder=name)
    return cards


if __name__ == "__main__":
    for name, text in size_cards().items():
        template_path().with_name(f"{name}.md").write_text(text)
