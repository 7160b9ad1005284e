import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenunify_scale.cli import main
from tokenunify_scale.hub import parts
from tokenunify_scale.hub.probe import Origin, asdict
from tokenunify_scale.hub.probe import main as compute

CHECK = Path(parts.__file__).with_name("check.py")


def test_a_difference_is_measured_in_a_process_without_this_package(finetuned, tmp_path, capsys):
    pytest.importorskip("transformers")
    out, path = tmp_path / "out", tmp_path / "probe.pt"
    assert main("export", ["--run", str(finetuned), "--out", str(out), "--set", "check=false"]) == 0
    compute(json.dumps(asdict(Origin(run=str(finetuned)))), "float32", str(path))
    known = torch.load(path, weights_only=True)
    known["prediction"][0, 0, 0, 0, 0] += 0.25
    torch.save(known, path)
    done = subprocess.run(
        [sys.executable, "-c", CHECK.read_text(), out, path],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["largest_difference"] == pytest.approx(0.25, abs=1e-5)
    assert told["parameters"] == 477_851 and not told["package_loaded"]
