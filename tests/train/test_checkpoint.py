import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from tokenunify_scale.config import DataError, HostError
from tokenunify_scale.train.checkpoint import (
    HEADER,
    WEIGHTS,
    Description,
    read_description,
    read_measured,
    read_weights,
    save_weights,
)

ABOUT = Description(
    model={"name": "emmamba_atto", "features": [4, 8, 16, 32]},
    in_channels=1,
    out_channels=3,
    objective="affinity",
)


def test_weights_and_their_description_come_back(tmp_path):
    weights = {"a.weight": torch.rand(2, 3), "b": torch.rand(4).t()}
    path = save_weights(tmp_path, weights, ABOUT)
    assert path == tmp_path / WEIGHTS and [p.name for p in tmp_path.iterdir()] == [WEIGHTS]
    found, description = read_weights(tmp_path)
    assert description == ABOUT == read_description(tmp_path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_strided_tensors_are_written_as_they_read(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3).t()
    save_weights(tmp_path, {"a": tensor}, ABOUT)
    assert torch.equal(read_weights(tmp_path)[0]["a"], tensor)


def test_writing_again_replaces_the_weights(tmp_path):
    for value in (0.0, 1.0):
        save_weights(tmp_path, {"a": torch.full((2,), value)}, ABOUT)
    assert read_weights(tmp_path)[0]["a"].tolist() == [1.0, 1.0]


def test_missing_weights_say_why(tmp_path):
    for read in (read_weights, read_description):
        with pytest.raises(DataError, match="no such folder"):
            read(tmp_path / "nowhere")
        with pytest.raises(DataError, match="not a run folder"):
            read(tmp_path)
    (tmp_path / "config.yaml").write_text("{}\n")
    with pytest.raises(DataError, match="the run has not finished") as caught:
        read_weights(tmp_path)
    assert caught.value.exit_code == 4
    (tmp_path / "best").mkdir()
    save_weights(tmp_path / "best", {"a": torch.zeros(1)}, ABOUT)
    with pytest.raises(DataError, match="has not finished; its best so far are in .*best"):
        read_weights(tmp_path)
    (tmp_path / "result.json").write_text("{}\n")
    with pytest.raises(DataError, match="a finished run of a command that leaves none"):
        read_weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_damaged(tmp_path, keep):
    path = save_weights(tmp_path, {"a": torch.rand(100)}, ABOUT)
    path.write_bytes(path.read_bytes()[:keep])
    for read in (read_weights, read_description):
        with pytest.raises(DataError, match="damaged"):
            read(tmp_path)


def test_a_foreign_file_is_named_as_such(tmp_path):
    save_file({"a": torch.rand(2)}, str(tmp_path / WEIGHTS))
    with pytest.raises(DataError, match="not one of ours"):
        read_weights(tmp_path)


def test_offsets_of_affinities_come_back_and_files_without_them_are_read(tmp_path):
    offsets = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 9, -9))
    save_weights(tmp_path, {"a": torch.rand(2)}, replace(ABOUT, offsets=offsets))
    assert read_description(tmp_path).offsets == offsets
    facts = {name: value for name, value in asdict(ABOUT).items() if name != "offsets"}
    header = {HEADER: json.dumps(facts)}  # of an earlier version
    save_file({"a": torch.rand(2)}, str(tmp_path / WEIGHTS), metadata=header)
    assert read_description(tmp_path) == ABOUT and ABOUT.offsets is None


def test_what_was_measured_of_weights_lies_with_them(tmp_path):
    save_weights(tmp_path, {"a": torch.rand(2)}, ABOUT)
    assert read_measured(tmp_path) is None
    save_weights(tmp_path, {"a": torch.rand(2)}, ABOUT, measured={"step": 3, "voi": 0.5})
    assert read_measured(tmp_path) == {"step": 3, "voi": 0.5}
    assert read_description(tmp_path) == ABOUT


def test_a_disk_that_takes_no_weights_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    save_weights(tmp_path, {"a": torch.zeros(2)}, ABOUT)
    monkeypatch.setattr("tokenunify_scale.train.checkpoint.save_file", full)
    with pytest.raises(HostError, match="cannot be written .No space left"):
        save_weights(tmp_path, {"a": torch.ones(2)}, ABOUT)
    assert read_weights(tmp_path)[0]["a"].tolist() == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]
