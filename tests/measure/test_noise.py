import numpy as np
import pytest

from tokenunify_scale.measure import noise
from tokenunify_scale.measure.noise import compare, flipped, noise_findings, noise_table
from tokenunify_scale.measure.picture import draw_noise


def test_the_share_that_is_asked_for_is_flipped_and_the_rest_is_as_it_was():
    truth = np.zeros((3, 20, 40, 40), np.float32)
    assert np.array_equal(flipped(truth, 0.0), truth)
    found = flipped(truth, 0.1)
    assert found.dtype == np.float32 and set(np.unique(found)) == {0, 1}
    assert found.mean() == pytest.approx(0.1, abs=0.01)


def test_perfect_affinities_give_the_labels_back_at_once_and_by_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "SHARES", (0.0, 0.05))
    measured = compare((12, 64, 64), folder=tmp_path)
    assert all(curve[0] < 0.01 for curve in measured["voi"].values())
    assert not list(tmp_path.iterdir())
    kinds = [finding.kind for finding in noise_findings(measured)]
    assert kinds == ["perfect", "noise", "blocks"] * 2
    assert all(finding.met for finding in noise_findings(measured) if finding.kind != "noise")
    text = noise_table(measured)
    assert "8 blocks against the whole" in text and "everything merged" in text
    draw_noise(tmp_path / "n.png", measured["voi"], shares=(0.0, 0.05), worst=4.0, title="t")
    assert (tmp_path / "n.png").stat().st_size > 10_000
