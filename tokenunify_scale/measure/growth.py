"""How time and memory of predicting all patches grow with their number.

Next-all decodes every patch from latents that have seen the visible ones: O(K R) for K patches and
R latents. The pairwise way, in which each patch attends all visible ones, is O(K^2): its attention
is measured alone too, as what else such a head does is linear and has a share at these K.
Source: Sec. 4.2.4.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tokenunify_scale.config import ConfigError
from tokenunify_scale.measure.clock import medians, own_clock
from tokenunify_scale.measure.memory import peak_on_gpu, print_peak, printed
from tokenunify_scale.measure.pairwise import PairwiseHead, attention
from tokenunify_scale.models.perceiver import (
    PerceiverConfig,
    PerceiverHead,
    feature_width,
    visibility,
)
from tokenunify_scale.volumes.geometry import Triple

PATCH = (4, 16, 16)  # voxels
DEPTH, SIDE = 4, 5  # patches of the smallest crop along z, and along y and x
LARGER = 3  # sizes that an exponent is fitted to: in smaller ones what does not grow has a share
OURS, PAIRWISE, ATTENTION = WAYS = "Perceiver head", "pairwise head", "pairwise attention"
HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""For glibc: a large tensor is mapped, and given back at once when it is freed, so that none hides
in memory that an earlier one has left."""


class Given(NamedTuple):
    """What a way to predict is given: the features of one crop."""

    grid: Triple
    """Patches along (z, y, x)."""

    cells: Triple
    """Cells of the feature map along (z, y, x)."""

    width: int
    """Channels of the feature map."""

    @property
    def patches(self) -> int:
        """Patches K."""
        return math.prod(self.grid)


def next_all(way: str, given: Given, *, device: str) -> Callable[[], object]:
    """Forward and backward of one way to predict all patches when the first half is visible.

    Args:
        way: one of ``WAYS``.
        given: the sizes; the batch is 1.
        device: where it is done.
    """
    config, count, voxels = PerceiverConfig(), given.patches, math.prod(PATCH)
    seen = count // 2
    if way == ATTENTION:
        shape = (config.layers, 3, 1, config.heads, count, config.width // config.heads)
        x = torch.randn(shape, device=device, requires_grad=True)
        return _gradients(partial(attention, x, visible=seen), [x])
    if way == PAIRWISE:
        x = torch.randn(1, count, given.width, device=device, requires_grad=True)
        head = PairwiseHead(config, feature_width=given.width, outputs=voxels).to(device)
        return _gradients(partial(head, x, visible=seen), [x, *head.parameters()])
    x = torch.randn(1, given.width, *given.cells, device=device, requires_grad=True)
    hidden = torch.arange(count)[None] >= seen
    visible = visibility(hidden, grid=given.grid, size=given.cells).to(device)
    head = PerceiverHead(config, feature_width=given.width, patch=PATCH, channels=1).to(device)
    return _gradients(partial(head, x, visible, grid=given.grid), [x, *head.parameters()])


def _gradients(run: Callable[[], Tensor], wanted: list[Tensor]) -> Callable[[], object]:
    with torch.no_grad():
        gradient = torch.ones_like(run())
    return lambda: torch.autograd.grad(run(), wanted, gradient)


def crops_of(most: int) -> list[Triple]:
    """Grids of K = 100, 400, 1600, ... patches, at most ``most``: twice the sides y and x each.

    Raises:
        ConfigError: fewer than two, through which there is no line.
    """
    sides = (SIDE * 2**i for i in range(most.bit_length()))
    grids = [(DEPTH, side, side) for side in sides if DEPTH * side * side <= most]
    if len(grids) < 2:
        raise ConfigError(f"benchmark: patches {most}: at least {16 * SIDE**2} make two crops")
    return grids


def sizes_of(network: nn.Module, *, most: int) -> list[Given]:
    """What the head is given of crops of ``crops_of(most)``.

    Args:
        network: on the meta device; one channel in.
        most: patches of the largest crop.

    Raises:
        ConfigError: the network has a margin, so no features on its crop, or ``most`` is too small.
    """
    stage = PerceiverConfig().stage
    width, found = feature_width(network, stage=stage), []
    for grid in crops_of(most):
        sides = [count * side for count, side in zip(grid, PATCH, strict=True)]
        crops = torch.empty(1, 1, *sides, device="meta")
        with torch.no_grad():
            features = network.features(crops)[stage]
        found.append(Given(grid, tuple(features.shape[2:]), width))
    return found


def compare(sizes: Sequence[Given], *, repeats: int, device: str) -> dict[str, Any]:
    """Seconds and peak extra bytes of each way at each size, and the exponents of their growth.

    Args:
        sizes: from small to large.
        repeats: turns that everything takes at every size.
        device: where.

    Returns:
        ``sizes``, ``clock`` (see ``own_clock``), and ``ways`` by name: ``seconds`` and ``bytes`` at
        each size, and ``exponents`` fitted to the larger ones; ``bytes`` are None where the system
        cannot tell.
    """
    works = {
        f"{way} {given.patches}": next_all(way, given, device=device)
        for given in sizes
        for way in WAYS
    }
    clock = own_clock(device)
    seconds = medians(works, repeats=repeats, clock=clock)
    works.clear()  # their inputs are not to be in the way of a peak
    found: dict[str, Any] = {}
    for way in WAYS:
        measured = {
            "seconds": [seconds[f"{way} {given.patches}"] for given in sizes],
            "bytes": [_peak(way, given, device=device) for given in sizes],
        }
        counts = [given.patches for given in sizes]
        exponents = {
            name: None if None in values else exponent(counts, values)
            for name, values in measured.items()
        }
        found[way] = {**measured, "exponents": exponents}
    return {
        "sizes": [{"patches": given.patches, **given._asdict()} for given in sizes],
        "clock": clock.__name__,
        "ways": found,
    }


def exponent(counts: Sequence[int], values: Sequence[float]) -> float:
    """The e of values ~ counts^e at the larger counts: least squares of logarithms."""
    x, y = (np.log(numbers[-LARGER:]) for numbers in (counts, values))
    return float(np.polyfit(x, y, 1)[0])


def _peak(way: str, given: Given, *, device: str) -> int | None:
    if device == "cuda":
        work = next_all(way, given, device=device)
        work()
        return peak_on_gpu(work)
    arguments = f"{way!r}, {tuple(given)}, threads={torch.get_num_threads()}"
    code = f"from {__name__} import peak_here; peak_here({arguments})"
    return printed(code, environment=HEAP)


def peak_here(way: str, given: tuple[Triple, Triple, int], *, threads: int) -> None:
    """Print the extra bytes at the peak of ``next_all``; to be called in a fresh process."""
    torch.set_num_threads(threads)
    next_all(way, Given((1, 1, 4), (1, 2, 8), given[-1]), device="cpu")()
    print_peak(next_all(way, Given(*given), device="cpu"))
