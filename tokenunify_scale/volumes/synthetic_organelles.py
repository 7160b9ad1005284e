"""Organelles of synthetic neurites: mitochondria, microtubules, vesicles, tubes, synapses."""

from dataclasses import dataclass

import numpy as np

from tokenunify_scale.volumes.geometry import Triple
from tokenunify_scale.volumes.synthetic_labels import Anatomy
from tokenunify_scale.volumes.synthetic_lattice import Lattice, Spheres
from tokenunify_scale.volumes.synthetic_skeletons import Branch

# How many there are per cubic micrometre of tissue, before those without room are dropped.
SYNAPSES, VESICLES, TUBES = 1.6, 4500, 45
LADEN = 0.5
BEADS = 8


@dataclass(frozen=True)
class Details:
    """Small structures, drawn into the volume before its sections are."""

    rims: np.ndarray
    """[D, H, W] float16, darkness of the walls of vesicles and tubes, 0 to 1."""
    density: np.ndarray
    """[D, H, W] float16, darkness of synaptic densities, 0 to 1."""
    filaments: np.ndarray
    """[D, H, W] float32, how many beads of microtubules are in the voxel."""


def place_mitochondria(
    branches: list[Branch], *, rng: np.random.Generator
) -> tuple[Spheres, np.ndarray]:
    """Elongated bodies inside neurites that have room for them.

    Returns:
        Spheres owned by mitochondria counted from 0, and the neurite [M] of each.
    """
    placed: list[tuple[int, np.ndarray, np.ndarray]] = []
    for branch in branches:
        spacing = branch.length / (len(branch.points) - 1)
        lanes = 1 + int(branch.radius.max() > 260) + int(branch.radius.max() > 400)
        for _ in range(rng.poisson(lanes * branch.length / 1600)):
            count = int(rng.uniform(300, 1500) / spacing)
            begin = int(rng.integers(-count // 2, max(len(branch.points) - count // 2, 1)))
            span = slice(max(begin, 0), max(begin + count, 0))
            wide = branch.radius[span] > 88
            path, room = branch.points[span][wide], branch.radius[span][wide]
            if len(path) < 4:
                continue
            radius = np.minimum(rng.uniform(0.5, 0.8) * np.median(room), rng.uniform(95, 190))
            radius = np.minimum(radius, room - 20) * (1 - 0.25 * np.linspace(-1, 1, len(path)) ** 4)
            aside = 0.9 * max(float(np.median(room) - np.median(radius)) - 25, 0)
            path = path + aside * (_disk(rng, 1)[0] @ _across(path).transpose(1, 0, 2))
            others = [body for host, *body in placed if host == branch.owner]
            if all(_apart(path, radius, *other) for other in others):
                placed.append((branch.owner, path, radius))
    hosts = np.array([host for host, _, _ in placed], int)
    return Spheres.of([(i, path, r) for i, (_, path, r) in enumerate(placed)]), hosts


def place_microtubules(
    branches: list[Branch], *, lattice: Lattice, rng: np.random.Generator
) -> np.ndarray:
    """Beads [N, 3] (voxels), 5 to 10 nm apart, of filaments that run with the neurites."""
    lines = []
    for branch in branches:
        thin, path = float(np.median(branch.radius)), branch.points
        if thin < 45 or len(path) < 6:
            continue
        across = _across(path).transpose(1, 0, 2)
        for spot in _disk(rng, int(rng.uniform(0.5, 1.5) * (thin / 45) ** 2 + 1)) * (thin - 15):
            begin, end = np.sort(rng.uniform(-0.4, 1.4, 2)) * len(path)
            part = slice(max(int(begin), 0), max(int(end), 0))
            lines.append((path + spot @ across)[part])
    lines = [line for line in lines if len(line) > 1]
    if not lines:
        return np.zeros((0, 3))
    nodes = lattice.unwarp(np.concatenate(lines))
    ends = np.cumsum([len(line) for line in lines])[:-1] - 1
    inner = np.delete(np.arange(len(nodes) - 1), ends)
    share = (np.arange(BEADS) / BEADS)[:, None, None]
    return ((1 - share) * nodes[inner] + share * nodes[inner + 1]).reshape(-1, 3)


def _across(path: np.ndarray) -> np.ndarray:
    """Two unit vectors [2, N, 3] across a path [N, 3], turning slowly along it."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    axis = np.eye(3)[np.abs(tangent.mean(0)).argmin()]
    first = np.cross(tangent, axis)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
    return np.stack([first, np.cross(tangent, first)])


def _disk(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points [count, 2], uniform in the unit disk."""
    turn, out = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
    return np.stack([out * np.cos(turn), out * np.sin(turn)], 1)


def _apart(path, radius, other, other_radius) -> bool:
    """Whether two runs of spheres leave 30 nm between them."""
    distance = np.linalg.norm(path[:, None] - other, axis=2)
    return bool((distance > radius[:, None] + other_radius + 30).all())


def draw_details(
    anatomy: Anatomy,
    beads: np.ndarray,
    *,
    voxel_size: tuple[float, float, float],
    rng: np.random.Generator,
) -> Details:
    """Place synapses with their vesicles, loose vesicles and tubes; draw them and ``beads``."""
    shape, size = anatomy.labels.shape, np.array(voxel_size)
    rims, density = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
    volume = float(np.prod(size * shape)) / 1e9
    vesicles = [
        _synapse(anatomy, density, size=size, rng=rng)
        for _ in range(rng.poisson(SYNAPSES * volume))
    ]
    loose = _scatter(anatomy, VESICLES * volume, room=26.0, rng=rng)
    laden = rng.random(int(anatomy.labels.max()) + 1) < LADEN
    vesicles.append(loose[laden[_at(anatomy.labels, loose)]])
    for centre in np.concatenate(vesicles):
        _ring(rims, centre, np.full(3, rng.uniform(15, 23)), size=size, dark=rng.uniform(0.5, 1))
    for centre in _scatter(anatomy, TUBES * volume, room=50.0, rng=rng):
        _ring(rims, centre, rng.uniform(24, 60, 3), size=size, dark=rng.uniform(0.5, 0.9))
    return Details(rims, density, _count(beads, shape))


def _at(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values [N] at the voxels nearest to points [N, 3]."""
    return values[tuple(np.round(points).astype(int).T)]


def _scatter(anatomy: Anatomy, expected: float, *, room: float, rng) -> np.ndarray:
    """Points [N, 3] (voxels), uniform over the volume, of which those in cytoplasm are kept."""
    sides = np.array(anatomy.labels.shape) - 1e-6
    return _free(anatomy, rng.random((rng.poisson(expected), 3)) * sides - 0.5, room=room)


def _free(anatomy: Anatomy, points: np.ndarray, *, room: float) -> np.ndarray:
    """Those of the points [N, 3] (voxels) in cytoplasm at least ``room`` nm from all membranes."""
    sides = np.array(anatomy.labels.shape)
    points = points[((points > -0.5) & (points < sides - 0.5)).all(1)]
    return points[(_at(anatomy.gap, points) > room) & (_at(anatomy.depth, points) > room)]


def _synapse(anatomy: Anatomy, density: np.ndarray, *, size: np.ndarray, rng) -> np.ndarray:
    """Thicken a membrane somewhere; return the vesicles [N, 3] (voxels) on one side of it."""
    shape = np.array(anatomy.labels.shape)
    spots = rng.integers(0, shape, (400, 3))
    spot = spots[int(_at(anatomy.gap, spots).argmin())]
    before = anatomy.labels[tuple(spot)]
    radius = rng.uniform(90, 190)
    reach = np.ceil(1.3 * radius / size).astype(int)
    low, high = np.maximum(spot - reach, 0), np.minimum(spot + reach + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    z, y, x = (
        ((np.arange(*ends) - s) * n / radius) ** 2
        for ends, s, n in zip(zip(low, high, strict=True), spot, size, strict=True)
    )
    away = z[:, None, None] + (y[:, None] + x)
    width = np.where(anatomy.labels[box] == before, 12.0, 24.0)
    dark = 0.92 * np.exp(-away - (anatomy.gap[box] / width) ** 2)
    np.maximum(density[box], dark.astype(np.float16), out=density[box])
    cloud = rng.normal(0, rng.uniform(90, 190), (int(rng.uniform(60, 420)), 3)) / size
    vesicles = _free(anatomy, spot + cloud, room=24.0)
    return vesicles[_at(anatomy.labels, vesicles) == before]


def _ring(rims: np.ndarray, centre, radii, *, size: np.ndarray, dark: float) -> None:
    """Draw the wall of an ellipsoid with ``radii`` (nm) around ``centre`` (voxels), in place."""
    wall = 5.5
    reach = np.ceil((radii + 2 * wall) / size).astype(int)
    middle = np.round(centre).astype(int)
    low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach + 1, rims.shape)
    z, y, x = (np.arange(a, b) - c for a, b, c in zip(low, high, centre, strict=True))
    # A section shows the widest outline within its thickness.
    z = np.maximum(np.abs(z) - 0.4, 0)
    z, y, x = ((d * n / r) ** 2 for d, n, r in zip((z, y, x), size, radii, strict=True))
    distance = (np.sqrt(z[:, None, None] + (y[:, None] + x)) - 1) * radii[1]
    box = rims[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    np.maximum(box, (dark * np.exp(-((distance / wall) ** 2))).astype(np.float16), out=box)


def _count(points: np.ndarray, shape: Triple) -> np.ndarray:
    """Count points [N, 3] (voxels) per voxel, shared by the four nearest of their section."""
    points = points[((points > -0.49) & (points < np.array(shape) - 0.51)).all(1)]
    z, corner = np.round(points[:, 0]).astype(int), np.floor(points[:, 1:]).astype(int)
    part, sides = points[:, 1:] - corner, np.array(shape[1:]) - 1
    total = np.zeros(shape, np.float32)
    for side in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.abs(1 - np.array(side) - part).prod(1).astype(np.float32)
        y, x = np.clip(corner + side, 0, sides).T
        np.add.at(total, (z, y, x), weight)
    return total
