import numpy as np
import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.inference.lattice import Lattice
from tokenunify_scale.inference.tasks import CHUNK, divide, held_by
from tokenunify_scale.models.tiling import Windows
from tokenunify_scale.volumes.geometry import Box

MIB = 1 << 20
SHAPE = (500, 2000, 3000)
LATTICE = Lattice(SHAPE, Windows((16, 160, 160), (4, 32, 32), (0, 0, 0), (0, 0, 0)))


def division(box=None, *, budget=1024 * MIB, world=1):
    box = box or Box.of(SHAPE)
    return divide(box, LATTICE, channels=3, budget=budget, world=world)


@pytest.mark.parametrize("budget, world", [(4096, 1), (256, 1), (64, 3), (4096, 7), (30, 64)])
def test_tasks_are_whole_chunks_that_cover_the_request_once_within_the_budget(budget, world):
    box = Box((3, 40, 7), (300, 1500, 2999))
    found = division(box, budget=budget * MIB, world=world)
    covered = np.zeros(tuple(-(-side // c) for side, c in zip(box.shape, CHUNK, strict=True)), int)
    for task in found.tasks:
        spans = []
        for a, b, first, last, c in zip(
            task.start, task.stop, box.start, box.stop, CHUNK, strict=True
        ):
            assert (a - first) % c == 0 and ((b - first) % c == 0 or b == last)
            spans.append(slice((a - first) // c, -(-(b - first) // c)))
        covered[tuple(spans)] += 1
        assert held_by(task.shape, LATTICE, channels=3) <= found.held <= budget * MIB
    assert (covered == 1).all()
    assert found.tiles == sum(LATTICE.count(task) for task in found.tasks)


def test_what_fits_is_one_task_and_computes_no_tile_twice():
    found = division(budget=8192 * MIB)
    assert found.tasks == [Box.of(SHAPE)] and found.tiles == LATTICE.count(Box.of(SHAPE))


def test_a_smaller_budget_costs_tiles_at_the_borders_of_columns():
    large, small = division(budget=1024 * MIB), division(budget=64 * MIB)
    assert len(small.tasks) > len(large.tasks) > 1
    assert small.tiles > large.tiles > LATTICE.count(Box.of(SHAPE))
    assert {task.shape[0] for task in large.tasks} == {SHAPE[0]}  # rolled along all of z


@pytest.mark.parametrize("world", [2, 5, 16])
def test_ranks_have_about_equally_much_to_do(world):
    found = division(world=world)
    work = [sum(LATTICE.count(task) for task in found.tasks[r::world]) for r in range(world)]
    assert max(work) < 1.4 * division().tiles / world


def test_a_volume_of_petabytes_is_divided_at_once():
    look = Windows((16, 160, 160), (4, 32, 32), (0, 0, 0), (0, 0, 0))
    shape = (20_000, 50_000, 50_000)
    found = divide(Box.of(shape), Lattice(shape, look), channels=3, budget=1024 * MIB, world=64)
    assert len(found.tasks) >= 64


def test_a_budget_below_one_column_is_refused_with_the_least():
    with pytest.raises(ConfigError, match=r"memory_MiB 1 does not hold .* at least (\d+)") as error:
        division(budget=MIB)
    least = int(str(error.value).split()[-1])
    assert division(budget=least * MIB).tasks
    with pytest.raises(ConfigError):
        division(budget=(least - 1) * MIB)
