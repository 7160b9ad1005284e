from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tokenunify_scale.config import Named
from tokenunify_scale.models import build_model
from tokenunify_scale.models.recompute import recompute
from tokenunify_scale.objectives import build_objective, out_channels
from tokenunify_scale.registry import OBJECTIVES
from tokenunify_scale.train.live import peak_of_step

MAP = 2 * 3 * 4 * 4  # bytes of a map [1, 1, 2, 3, 4] in fp32


class Exponential(nn.Module):
    """The loss is the sum of exp(weight * crops)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, 2, 3, 4))

    def forward(self, batch, *, progress):
        return SimpleNamespace(loss=(self.weight * batch["crops"]).exp().sum())


def meta(factory, *arguments):
    with torch.device("meta"):
        return factory(*arguments)


def test_a_step_holds_what_can_be_counted_by_hand():
    peak = peak_of_step(meta(Exponential), crop=(1, 2, 3, 4), micro=1)
    # The exponential is kept; the product is not, as weight and crops are. At most: the exponential
    # and what goes back through it, the loss and its gradient; then the weight's in its place.
    assert peak.activations == peak.together == 2 * MAP + 4 + 4


def test_gradients_of_weights_are_told_from_what_leads_to_them():
    class Two(nn.Module):
        """A large weight whose gradient comes first, and then a large map."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = (nn.Parameter(torch.empty(n)) for n in (1, 1000))

        def forward(self, batch, *, progress):
            x = (self.first * batch["crops"]).exp()
            return SimpleNamespace(loss=x.sum() * self.last.sum())

    peak = peak_of_step(meta(Two), crop=(1, 10, 20, 30), micro=1)
    assert 2 * 24000 <= peak.activations < 3.1 * 24000
    assert 0 < peak.together - peak.activations <= 4000 + 24000


def test_a_micro_batch_of_two_holds_twice_as_much():
    one, two = (
        peak_of_step(meta(Exponential), crop=(1, 2, 3, 4), micro=n).activations for n in (10, 20)
    )
    assert two == pytest.approx(2 * one, rel=0.05)


def test_a_cast_copies_weights_and_halves_maps():
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(64, 64, bias=False)

        def forward(self, batch, *, progress):
            return SimpleNamespace(loss=self.map(batch["crops"]).float().square().sum())

    plain, cast = (
        peak_of_step(meta(Linear), crop=(1, 8, 64, 64), micro=4, cast=kind).activations
        for kind in (None, torch.bfloat16)
    )
    assert 0.5 * plain < cast < 1.5 * plain and cast != plain


def test_blocks_that_are_computed_again_hold_less_and_the_network_stays_as_it_was():
    with torch.device("meta"):
        network = build_model("emmamba_atto", out_channels=1)
    objective = build_objective(
        Named("mae", OBJECTIVES.get("mae").config), backbone=network, seed=0
    )
    whole = peak_of_step(objective, crop=(1, 16, 64, 64), micro=1)
    recompute(network, ["all"])
    again = peak_of_step(objective, crop=(1, 16, 64, 64), micro=1)
    assert again.activations < 0.6 * whole.activations
    assert all(p.is_meta and p.grad is None for p in objective.parameters())


def test_an_order_that_depends_on_the_crop_is_drawn_from_a_real_one():
    options = replace(OBJECTIVES.get("autoregressive").config, path="relevance")
    with torch.device("meta"):
        network = build_model("emmamba_atto", out_channels=1)
        objective = build_objective(Named("autoregressive", options), backbone=network, seed=0)
    assert peak_of_step(objective, crop=(1, 16, 32, 32), micro=1).activations > 5e6


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OBJECTIVES.names()])
def test_every_objective_is_counted_without_memory(name):
    with torch.device("meta"):
        network = build_model("emmamba_atto", out_channels=out_channels(name))
        objective = build_objective(Named(name, OBJECTIVES.get(name).config), backbone=network,
                                    seed=0)  # fmt: skip
    peak = peak_of_step(objective, crop=(1, 16, 32, 32), micro=2)
    assert 5e6 < peak.activations <= peak.together < 1e8
