import importlib.util

import pytest

from tokenunify_scale.config import HostError
from tokenunify_scale.hub.push import push, require


class Hub:
    """In the place of the hub: nothing leaves this machine."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repository, **words):
        self.calls.append((repository, words))

    def upload_folder(self, **words):
        self.calls.append(words)
        return type("Commit", (), {"commit_url": "where it is"})


def test_all_but_the_runs_own_records_is_uploaded(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    stand_in = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: stand_in)
    assert push(tmp_path, "lab/model", private=True) == "where it is"
    made, uploaded = stand_in.calls
    assert made == ("lab/model", {"private": True, "exist_ok": True})
    assert uploaded["repo_id"] == "lab/model" and uploaded["folder_path"] == tmp_path
    assert set(uploaded["ignore_patterns"]) == {"config.yaml", "environment.json", "result.json"}


def test_a_refusal_is_one_line_that_says_the_folder_is_there(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def refuse():
        raise RuntimeError("401\nno token")

    monkeypatch.setattr(hub, "HfApi", refuse)
    with pytest.raises(HostError, match=r"was written, but not pushed to lab/model: 401 no token"):
        push(tmp_path, "lab/model", private=True)


@pytest.mark.parametrize(
    "words, told",
    [
        ({"check": True, "push": None}, "loading it with transformers, which is not installed"),
        ({"check": False, "push": "lab/model"}, "--push needs huggingface_hub"),
    ],
)
def test_a_missing_package_is_told_before_anything_is_written(monkeypatch, words, told):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HostError, match=told):
        require(**words)
    require(check=False, push=None)
