import os

import numpy as np
import pytest
import torch

from tokenunify_scale.config import ConfigError, Named
from tokenunify_scale.measure import clock, growth, memory
from tokenunify_scale.measure.growth import ATTENTION, OURS, PAIRWISE, WAYS, Given
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.registry import MODELS

SMALL, LARGE = Given((1, 2, 2), (1, 4, 4), 6), Given((1, 4, 4), (1, 8, 8), 6)


def network(name):
    with torch.device("meta"):
        choice = Named(name, MODELS.get(name).config)
        return build_chosen(choice, in_channels=1, out_channels=1)


def test_crops_have_twice_the_sides_and_four_times_the_patches_each():
    assert growth.crops_of(6400) == [(4, 5, 5), (4, 10, 10), (4, 20, 20), (4, 40, 40)]
    assert growth.crops_of(6399) == growth.crops_of(1600)
    with pytest.raises(ConfigError, match="patches 399: at least 400"):
        growth.crops_of(399)


def test_the_head_is_given_the_cells_that_a_network_makes_of_each_crop():
    sizes = growth.sizes_of(network("emmamba_atto"), most=1600)
    assert [size.patches for size in sizes] == [100, 400, 1600]
    assert [size.cells for size in sizes] == [(2, 10, 10), (2, 20, 20), (2, 40, 40)]
    assert {size.width for size in sizes} == {16}
    with pytest.raises(ConfigError, match="MALA"):
        growth.sizes_of(network("mala"), most=400)


@pytest.mark.parametrize("power", [1, 1.5, 2])
def test_an_exponent_is_that_of_the_larger_counts(power):
    counts = [100, 400, 1600, 6400]
    values = [3e-4 * count**power for count in counts]
    assert growth.exponent(counts, values) == pytest.approx(power)
    assert growth.exponent(counts, [7.0, *values[1:]]) == pytest.approx(power)
    assert growth.exponent(counts[:2], values[:2]) == pytest.approx(power)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_takes_the_gradient_of_what_it_is_given_and_of_all_weights(way):
    x, *weights = growth.next_all(way, SMALL, device="cpu")()
    shapes = {OURS: (1, 6, 1, 4, 4), PAIRWISE: (1, 4, 6), ATTENTION: (2, 3, 1, 4, 4, 32)}
    assert x.shape == shapes[way] and x.any()
    assert len(weights) > 10 or way == ATTENTION
    assert all(weight is not None for weight in weights)


def test_the_pairwise_head_is_about_as_large_as_ours():
    ours, pairwise = (
        sum(weight.numel() for weight in growth.next_all(way, SMALL, device="cpu")()[1:])
        for way in (OURS, PAIRWISE)
    )
    assert 0.5 < ours / pairwise < 2


def test_growth_is_measured_in_time_and_memory(monkeypatch):
    monkeypatch.setattr(clock, "TURN", 0.0)
    monkeypatch.setattr(growth, "_peak", lambda way, given, device: given.patches**2)
    found = growth.compare([SMALL, LARGE], repeats=1, device="cpu")
    assert found["sizes"][1] == {"patches": 16, "grid": (1, 4, 4), "cells": (1, 8, 8), "width": 6}
    assert list(found["ways"]) == list(WAYS)
    for way in found["ways"].values():
        assert min(way["seconds"]) > 0 and way["bytes"] == [16, 256]
        assert way["exponents"]["bytes"] == pytest.approx(2)
        assert np.isfinite(way["exponents"]["seconds"])


def test_memory_that_the_system_cannot_tell_has_no_exponent(monkeypatch, tmp_path):
    monkeypatch.setattr(clock, "TURN", 0.0)
    monkeypatch.setattr(memory, "RESET", tmp_path / "clear_refs")
    found = growth.compare([SMALL, LARGE], repeats=1, device="cpu")["ways"][OURS]
    assert found["bytes"] == [None, None] and found["exponents"]["bytes"] is None
    assert found["exponents"]["seconds"] is not None


@pytest.mark.skipif(not os.access(memory.RESET, os.W_OK), reason="needs Linux's clear_refs")
def test_the_peak_of_attention_is_at_least_its_weights_in_memory():
    given = Given((1, 32, 32), (1, 64, 64), 6)
    weights = 2 * 4 * 1024 * 512 * 4  # layers, heads, patches, visible ones, bytes
    assert weights < growth._peak(ATTENTION, given, device="cpu") < 4 * weights
