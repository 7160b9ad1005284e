"""Overrule affinities that contradict their neighbours.

Belonging to one object is transitive: of the four edges around any square of voxels, never exactly
one is cut. An edge alone in its opinion is therefore wrong, and the squares around it say so. Their
votes are the messages of belief propagation; affinities of a true partition never change.
"""

import numpy as np

TRUST = 0.9  # how sure an affinity of 1 is: below 1, so that neighbours can overrule it
PRIOR = np.e  # odds that an edge is not cut, before its affinity is seen
SURE = 50.0  # the most that one square changes the odds
VOXELS = 1 << 20  # voxels worked on at a time: bounds the temporary memory


def consistent(affinities: np.ndarray, *, rounds: int = 3) -> np.ndarray:
    """Affinities in which edges that their squares contradict change sides of 0.5.

    Args:
        affinities: [3, D, H, W] float32 in [0, 1]; channel c at p is the edge (p, p - e_c).
        rounds: of messages; an edge hears of others that many voxels away. 0 changes nothing.

    Returns:
        The same shape; an overruled edge has its probability not to be cut, others keep their
        value. The argument itself with 0 rounds.

    Source: belief propagation (Pearl 1988) on the cycle constraints of the multicut.
    """
    if not rounds:
        return affinities
    result = affinities.copy()
    depth, reach = affinities.shape[1], rounds + 1
    step = max(1, VOXELS // max(1, affinities[0, 0].size))
    for z in range(0, depth, step):
        first, stop = max(z - reach, 0), min(z + step + reach, depth)
        own = slice(z, min(z + step, depth))
        seen = affinities[:, first:stop]
        odds = _odds(seen, rounds)[:, own.start - first : own.stop - first]
        overruled = (odds > 1) != (affinities[:, own] > 0.5)
        result[:, own][overruled] = (odds / (1 + odds))[overruled]
    return result


def _odds(affinities: np.ndarray, rounds: int) -> np.ndarray:
    """Odds that each edge is not cut, after some rounds of messages between edges and squares."""
    clipped = np.clip(affinities, 1 - TRUST, TRUST)
    prior = np.float32(PRIOR) * clipped / (1 - clipped)
    squares = _squares()
    messages = [[np.float32(1)] * 4 for _ in squares]
    total = prior
    for _ in range(rounds):
        messages = [
            _answer([total[edge] / m for edge, m in zip(square, held, strict=True)])
            for square, held in zip(squares, messages, strict=True)
        ]
        total = prior.copy()
        for square, held in zip(squares, messages, strict=True):
            for edge, message in zip(square, held, strict=True):
                total[edge] *= message
    return total


def _answer(odds: list[np.ndarray]) -> list[np.ndarray]:
    """What a square tells each of its edges from the odds of the other three, as a factor."""
    joined = [o / (1 + o) for o in odds]
    told = []
    for i in range(4):
        a, b, c = joined[:i] + joined[i + 1 :]
        ab, all_three = a * b, a * b * c
        one_cut = ab + (a + b) * c - 3 * all_three
        factor = (1 - one_cut) / np.maximum(1 - all_three, 1e-6)
        told.append(np.clip(factor, 1 / SURE, SURE))
    return told


def _squares() -> list[list[tuple]]:
    """The four edges of every square, in each of the three planes, as indices of the channels."""
    planes = []
    for c, d in ((0, 1), (0, 2), (1, 2)):

        def at(channel: int, back: int | None, c: int = c, d: int = d) -> tuple:
            """The edges of a channel at the squares' last corner, or one voxel back of it."""
            sides = [
                slice(None) if axis not in (c, d) else
                slice(None, -1) if axis == back else slice(1, None)
                for axis in range(3)
            ]  # fmt: skip
            return (channel, *sides)

        planes.append([at(c, None), at(c, d), at(d, None), at(d, c)])
    return planes
