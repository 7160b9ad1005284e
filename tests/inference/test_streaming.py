import numpy as np
import pytest
import torch

from tokenunify_scale.config import DataError
from tokenunify_scale.inference.ledger import Ledger, Mark
from tokenunify_scale.inference.predictor import Predictor
from tokenunify_scale.inference.streaming import encoded, stream
from tokenunify_scale.inference.tasks import CHUNK
from tokenunify_scale.models.tiling import Windows
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Box

SHAPE, ORIGIN = (40, 20, 20), (3, 2, 0)
BOX = Box(ORIGIN, SHAPE)


@pytest.fixture
def job(tmp_path):
    """A volume whose prediction is itself, three times, and where to write it."""
    raw = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    look = Windows((12, 20, 20), (4, 0, 0), (0, 0, 0), (0, 0, 0))

    def predictor(model=lambda crops: crops.repeat(1, 3, 1, 1, 1)):
        return Predictor(model, lambda box: raw[box.slices], shape=SHAPE, look=look, batch=1,
                         device=torch.device("cpu"))  # fmt: skip

    store = Boxed.create(tmp_path / "a.zarr", shape=(3, *BOX.shape), dtype="float32", chunk=CHUNK,
                         attributes={})  # fmt: skip
    cut = ORIGIN[0] + 2 * CHUNK[0]
    tasks = [Box(ORIGIN, (cut, *SHAPE[1:])), Box((cut, *ORIGIN[1:]), SHAPE)]
    ledger = Ledger(tmp_path / "progress")
    ledger.begin({}, tasks)
    expected = raw[BOX.slices].astype(np.float32) / 255
    return predictor, {"store": store, "ledger": ledger, "origin": ORIGIN, "speak": False}, tasks, (
        expected)  # fmt: skip


def test_tasks_are_written_where_they_lie_and_noted_with_their_sums(job):
    predictor, place, tasks, expected = job
    for number in (1, 0):
        stream(predictor(), tasks={number: tasks[number]}, **place)
    np.testing.assert_allclose(place["store"].read(Box.of(BOX.shape)), [expected] * 3, atol=1e-6)
    assert place["ledger"].wait(tasks) == pytest.approx(3 * expected.sum(dtype=np.float64))


def test_a_task_goes_on_from_its_mark(job):
    predictor, place, tasks, expected = job
    done = ORIGIN[0] + CHUNK[0]
    place["ledger"].mark(0, Mark(done, 100.0))
    stream(predictor(), tasks={0: tasks[0]}, **place)
    found = place["store"].read(Box((0, 0, 0), (16, 18, 20)))
    assert not found[:, :8].any()  # not written again
    np.testing.assert_allclose(found[0, 8:], expected[8:16], atol=1e-6)
    total = 100 + 3 * expected[8:16].sum(dtype=np.float64)
    assert place["ledger"].read(0, tasks[0]).total == pytest.approx(total)
    asked = []
    stream(predictor(lambda crops: asked.append(crops)), tasks={0: tasks[0]}, **place)
    assert not asked  # it is done


def test_a_network_that_predicts_nan_is_stopped(job):
    predictor, place, tasks, _ = job
    with pytest.raises(DataError, match="predicts NaN"):
        stream(predictor(lambda crops: crops * float("nan")), tasks=dict(enumerate(tasks)), **place)
    assert place["ledger"].read(0, tasks[0]) == Mark(ORIGIN[0])


@pytest.mark.parametrize(
    "dtype, stored",
    [("float32", [0, 0.25, 1]), ("float16", [0, 0.25, 1]), ("uint8", [0, 64, 255])],
)
def test_types_hold_the_affinity_times_their_scale(dtype, stored):
    found = encoded(torch.tensor([0.0, 0.25, 1.0]), np.dtype(dtype))
    assert found.dtype == dtype and found.tolist() == stored
