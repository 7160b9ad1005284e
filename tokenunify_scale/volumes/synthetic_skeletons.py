"""Skeletons of synthetic neuropil: branching centre lines that fill a box without overlap.

Thick neurites are placed first, thinner ones find their way between them: each step goes where
there is room, and the calibre follows the room there is. All lengths are in nm, axes zyx.
"""

from dataclasses import dataclass

import numpy as np

# The grid of free space, and what of it lies around the box; nm.
CELL, MARGIN, CLEAR_CAP = 50.0, 300.0, 400.0
# A growing tip: length of a step, thinnest radius; nm.
STEP, THINNEST = 70.0, 38.0
# Ways it chooses from at each step: half of them nearly ahead, half to the side.
CANDIDATES = 16
TURN = np.repeat([0.3, 0.8], CANDIDATES // 2)
# Least and largest distance of the spheres of a branch, nm.
SPACING = (40.0, 80.0)
# How many neurites of each kind start per cubic micrometre, and their radii in nm.
THICK, THICK_NM = 0.035, (300, 520)
MEDIUM, MEDIUM_NM = 0.3, (130, 260)
THIN_NM, THIN_SPREAD = 95.0, 0.45
# Thin ones fill in passes: start where there is this much room (nm), keep those of so many steps.
# The last pass takes any length, so that no hole is left that nobody is near to.
PASSES = ((120.0, 20), (90.0, 18), (70.0, 14), (60.0, 12), (90.0, 1))
# Failures in a row that end a pass, and the share of neurites that set out with their neighbours.
PATIENCE, BUNDLED = 40, 0.65


@dataclass(frozen=True)
class Branch:
    """One unbranched piece of a neurite, as spheres along its centre line."""

    owner: int
    """Neurite the branch belongs to."""
    points: np.ndarray
    """[N, 3] float64, nm, evenly spaced; N >= 4."""
    radius: np.ndarray
    """[N] float64, nm."""

    @property
    def length(self) -> float:
        """Of the centre line, in nm."""
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())


class Clearance:
    """Room in a box: distance to the nearest surface of what has been placed, on a coarse grid."""

    def __init__(self, extent: np.ndarray, *, rng: np.random.Generator) -> None:
        """Cover ``extent`` (nm, from 0) and a margin around it, all of it free."""
        self.extent = extent
        self.waves = rng.normal(0, 1.1, (5, 3))
        self.phases = rng.uniform(0, 2 * np.pi, 5)
        self.flow = rng.normal(0, 0.4, (5, 3))
        self.cells = np.ceil((extent + 2 * MARGIN) / CELL).astype(int) + 1
        self.field = np.full(tuple(self.cells), CLEAR_CAP, np.float32)

    def heading(self, start: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """Unit vector a new neurite sets out along: often with its neighbours, in a bundle."""
        way = rng.standard_normal(3)
        if rng.random() < BUNDLED:
            waves = np.cos(self.waves @ start / 1e3 + self.phases)
            way = 0.4 * way + (1.2, 0, 0) + waves @ self.flow
        return way / np.linalg.norm(way)

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which of the points [..., 3] lie within the margin."""
        return ((points > -MARGIN) & (points < self.extent + MARGIN)).all(-1)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Clearance at points [..., 3]: positive in free space, negative inside a neurite."""
        index = ((points + (MARGIN + CELL / 2)) / CELL).astype(int)
        index = np.minimum(np.maximum(index, 0), self.cells - 1)
        return self.field[index[..., 0], index[..., 1], index[..., 2]]

    def place(self, points: np.ndarray, radius: np.ndarray) -> None:
        """Take the spheres out of the free space."""
        for point, r in zip(points, radius, strict=True):
            reach = r + 250.0
            low = np.maximum(np.ceil((point + MARGIN - reach) / CELL), 0).astype(int)
            high = np.minimum((point + MARGIN + reach) // CELL + 1, self.cells).astype(int)
            if (high <= low).any():
                continue
            z, y, x = (
                (np.arange(a, b) * CELL - MARGIN - c).astype(np.float32) ** 2
                for a, b, c in zip(low, high, point, strict=True)
            )
            distance = np.sqrt(z[:, None, None] + (y[:, None] + x)) - np.float32(r)
            box = self.field[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            np.minimum(box, distance, out=box)

    def free(self, above: float) -> np.ndarray:
        """Centres [M, 3] of the cells with more clearance than ``above``."""
        return np.argwhere(self.field > above) * CELL - MARGIN


def grow(extent: np.ndarray, *, rng: np.random.Generator) -> list[Branch]:
    """Fill a box with neurites of varied calibre.

    Args:
        extent: sides of the box (z, y, x) in nm.
        rng: where all randomness comes from.

    Returns:
        Branches in the order of their owner; owners count from 0. Centre lines reach up to 300 nm
        out of the box.
    """
    space = Clearance(np.asarray(extent, float), rng=rng)
    volume = float(np.prod(space.extent + MARGIN)) / 1e9
    thick = rng.uniform(*THICK_NM, rng.poisson(THICK * volume))
    medium = rng.uniform(*MEDIUM_NM, rng.poisson(MEDIUM * volume))
    radii = np.concatenate([np.sort(thick)[::-1], np.sort(medium)[::-1]])
    branches: list[Branch] = []
    owner = 0
    for radius in radii:
        owner += _neurite(branches, space, owner=owner, radius=radius, rng=rng)
    for floor, shortest in PASSES:
        failures, free = 0, space.free(floor)
        while len(free) and failures < PATIENCE:
            radius = float(np.clip(rng.lognormal(np.log(THIN_NM), THIN_SPREAD), 0.6 * floor, 260))
            placed = _neurite(
                branches, space, owner=owner, radius=radius, rng=rng, among=free, shortest=shortest
            )
            owner, failures = owner + placed, 0 if placed else failures + 1
            free = free[space.at(free) > floor]
    return branches


def _neurite(branches, space, *, owner, radius, rng, among=None, shortest=1) -> bool:
    """Add a neurite and its branches where there is room; False where there is none."""
    if among is None:
        starts = rng.uniform(-0.5 * MARGIN, space.extent + 0.5 * MARGIN, (60, 3))
    else:
        starts = among[rng.integers(0, len(among), 30)]
    room = space.at(starts)
    start = starts[room.argmax()]
    if room.max() < THINNEST:
        return False
    heading = space.heading(start, rng=rng)
    walks = [_walk(space, start, sign * heading, radius=radius, rng=rng) for sign in (-1, 1)]
    points = np.concatenate([walks[0][::-1], start[None], walks[1]])
    if len(points) < shortest:
        return False
    if len(points) < 3:
        points = start + heading * np.array([[-0.4], [0.0], [0.4]]) * STEP
    trunk = _branch(space, owner, points, radius=radius, rng=rng)
    space.place(trunk.points, trunk.radius)
    branches.append(trunk)
    spiny = radius > 140
    for _ in range(rng.poisson(trunk.length / (550 if spiny else 2600))):
        root = rng.integers(0, len(trunk.points))
        out = rng.standard_normal(3)
        along = trunk.points[min(root + 1, len(trunk.points) - 1)] - trunk.points[max(root - 1, 0)]
        out -= along * (out @ along) / max(along @ along, 1e-9)
        out /= np.linalg.norm(out)
        begin = trunk.points[root] + out * (trunk.radius[root] + STEP)
        if space.at(begin) < THINNEST:
            continue
        thin = rng.uniform(45, 80) if spiny else radius * rng.uniform(0.6, 0.9)
        limit = int(rng.uniform(4, 14)) if spiny and rng.random() < 0.8 else 120
        walk = _walk(space, begin, out, radius=thin, rng=rng, limit=limit)
        if len(walk) < 3:
            continue
        points = np.concatenate([trunk.points[root][None], begin[None], walk])
        head = rng.uniform(90, 200) if limit < 120 else 0.0
        twig = _branch(space, owner, points, radius=thin, rng=rng, head=head)
        space.place(twig.points, twig.radius)
        branches.append(twig)
    return True


def _walk(space, start, heading, *, radius, rng, limit=150) -> np.ndarray:
    """Points [N, 3], STEP apart, from start (left out) to the end of the room or of the box."""
    points, position, direction = [], start, heading
    noise = rng.standard_normal((limit, CANDIDATES, 3)) * TURN[:, None]
    ahead = np.array([1.0, 2.0, 3.2])[:, None, None] * STEP
    for step in range(limit):
        ways = direction + noise[step]
        ways /= np.sqrt((ways * ways).sum(1, keepdims=True))
        room = space.at(position + ahead * ways)
        squeeze = np.minimum(room / radius, 1.0)
        score = (
            squeeze[0] + squeeze[1] + 0.6 * squeeze[2] + ways @ (0.9 * direction + 0.5 * heading)
        )
        best = int(score.argmax())
        if room[0, best] < 0:
            break
        direction = ways[best]
        position = position + STEP * direction
        if not space.inside(position):
            break
        points.append(position)
    return np.array(points).reshape(-1, 3)


def _branch(space, owner, points, *, radius, rng, head=0.0) -> Branch:
    """Resample a path and give it a calibre: varicose, within the room, a head at its end."""
    steps = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    spacing = np.clip(0.6 * radius, *SPACING)
    at = np.linspace(0, steps[-1], max(int(steps[-1] / spacing), 3) + 1)
    for _ in range(2):
        points = np.concatenate(
            [points[:1], (points[:-2] + 2 * points[1:-1] + points[2:]) / 4, points[-1:]]
        )
    fine = np.stack([np.interp(at, steps, axis) for axis in points.T], 1)
    wanted = radius * (1 + 0.2 * np.interp(at, steps, rng.standard_normal(len(steps))))
    for centre in rng.uniform(0, at[-1], rng.poisson(at[-1] / 2200)):
        bulge = rng.uniform(0.6, 2.2) * min(radius, 110)
        wanted += bulge * np.exp(-(((at - centre) / rng.uniform(120, 260)) ** 2))
    if head:
        wanted += (head - radius) * np.exp(-(((at - at[-1]) / (0.8 * head)) ** 2))
    room = space.at(fine)
    calibre = np.clip(wanted, THINNEST, np.maximum(room, 0.6 * min(radius, 90)))
    calibre = np.maximum(calibre, THINNEST)
    padded = np.pad(calibre, 2, mode="edge")
    return Branch(owner, fine, np.convolve(padded, np.array([1, 3, 4, 3, 1]) / 12, "valid"))
