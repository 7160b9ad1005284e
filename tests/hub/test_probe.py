import pytest
import torch

from tokenunify_scale.config import DataError
from tokenunify_scale.hub import probe
from tokenunify_scale.models.load import build_described
from tokenunify_scale.train.checkpoint import read_description, read_weights


def test_the_source_is_computed_as_it_is_and_as_it_is_stored(finetuned, tmp_path, capsys):
    path = tmp_path / "probe.pt"
    origin = probe.json.dumps(probe.asdict(probe.Origin(run=str(finetuned))))
    probe.main(origin, "bfloat16", str(path))
    told = probe.json.loads(capsys.readouterr().out)
    assert 0 < told["rounding"] < 0.05 and told["peak_MiB"] > 100
    given = torch.load(path, weights_only=True)
    network = build_described(read_description(finetuned)).eval()
    rounded = {name: t.bfloat16().float() for name, t in read_weights(finetuned)[0].items()}
    network.load_state_dict(rounded)
    with torch.inference_mode():
        assert torch.equal(network(given["crops"]), given["prediction"])
    assert len(given["features"]) == 4


def test_a_process_that_fails_is_told_by_its_last_lines(tmp_path):
    with pytest.raises(DataError, match=r"exit code 1\): .*ZeroDivisionError: division by zero$"):
        probe._run(["-c", "1 / 0"], str(tmp_path))


def test_a_process_sees_this_package_only_where_it_is_meant_to(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    text = "import json, os; print('a line'); print(json.dumps(os.environ.get('PYTHONPATH')))"
    assert probe._run(["-c", text], str(tmp_path)) is None
    assert probe._run(["-c", text], str(tmp_path), PYTHONPATH="here") == "here"
