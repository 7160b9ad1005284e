"""The three orders in which a sequence is visited: forward, reversed, interleaved chunks."""

from torch import Tensor

REVERSE = -1
STEPS = 24
"""Steps of an order between the states that the CPU keeps for its backward pass."""


def order_code(length: int, *, reverse: bool, interleave: int | None) -> int:
    """One integer for the order: 1 is forward, -1 reversed, n > 1 interleaves n chunks.

    Interleaving cuts the sequence into n contiguous chunks of m = length / n and visits
    chunk0[0], chunk1[0], .., chunk0[1], ..: step k is at position (k % n) * m + k // n.

    Raises:
        ValueError: both orders are asked for, or the chunks do not divide the length.

    Source: Fig. 8 (forward, backward and inter-slice directions).
    """
    if interleave is None:
        return REVERSE if reverse else 1
    if reverse:
        raise ValueError(f"reverse and interleave={interleave} are two orders: ask for one")
    if interleave < 1 or length % interleave:
        raise ValueError(f"interleave={interleave} does not divide the length {length}")
    return interleave


def visit(x: Tensor, code: int) -> Tensor:
    """[.., L] rearranged along the last axis into visiting order."""
    if code == REVERSE:
        return x.flip(-1)
    return x if code == 1 else x.unflatten(-1, (code, -1)).transpose(-1, -2).flatten(-2)


def unvisit(x: Tensor, code: int) -> Tensor:
    """The inverse of ``visit``: step k goes back to its position."""
    if code == REVERSE:
        return x.flip(-1)
    return x if code == 1 else x.unflatten(-1, (-1, code)).transpose(-1, -2).flatten(-2)
