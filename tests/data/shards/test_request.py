import json
from pathlib import Path

import numpy as np
import pytest

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.shards.request import plan_request, write_request
from tokenunify_scale.data.team import Team

CROP = (1, 3, 4)
FACTS = [{"path": "photos"}]


def samples(channels):
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (5, channels, *CROP[1:])).astype(np.uint8)
    return [(array, {"volume": 0, "box": [[0, 0, 0], [1, 3, 4]]}) for array in arrays]


def write(out, *, channels=3, find=None, **request):
    known = {"crop": CROP, "channels": channels, "voxel_size": None, "volumes": FACTS}
    request = {"volumes": FACTS, "crops": 5, "per_shard": 2, "seed": 0, **request}
    find = find or (lambda: (samples(channels), known))
    return write_request(find, out=out, config={"seed": 0}, request=request, team=Team())


@pytest.mark.parametrize("count, shown", [(2, 1), (5, 3)])
def test_the_plan_is_what_is_written(tmp_path, count, shown):
    words = {"out": Path("here"), "samples": count, "per_shard": 2, "stored": (3, 3, 4)}
    planned = plan_request(FACTS, **words)
    assert len(planned["files"]) == shown and planned["files"][0] == "here/shard-000000.tar"
    assert planned["volumes"] == FACTS and planned["shards"] == -(-count // 2)
    if count == 5:
        result = write(tmp_path / "out")
        assert {key: result[key] for key in planned if key != "files"} == {
            key: value for key, value in planned.items() if key != "files"
        }


def test_what_is_finished_is_not_looked_for_again(tmp_path, capsys):
    first = write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == first
    assert "crops: 5, shards: 3" in capsys.readouterr().out
    assert write(tmp_path / "out", find=pytest.fail) == first
    assert "all 5 crops are there already, nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="seed was 0, is 1.*choose another --out"):
        write(tmp_path / "out", seed=1, find=pytest.fail)


def test_without_its_result_a_run_is_not_finished(tmp_path):
    first = write(tmp_path / "out")
    (tmp_path / "out" / "result.json").unlink()
    again = write(tmp_path / "out")
    assert {**again, "seconds": 0, "finished": 0} == {**first, "seconds": 0, "finished": 0}


def test_an_error_in_looking_leaves_nothing(tmp_path):
    def find():
        raise ConfigError("nothing to see")

    with pytest.raises(ConfigError, match="nothing to see"):
        write(tmp_path / "made" / "out", find=find)
    assert not (tmp_path / "made").exists()
