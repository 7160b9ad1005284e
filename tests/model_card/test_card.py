import json
import re
from pathlib import Path

import h5py
import huggingface_hub
import numpy as np
import pytest
import yaml
from scipy import stats

from tokenunify_scale.config import ConfigError
from tokenunify_scale.data.datasets import DATASETS
from tokenunify_scale.model_card import SCORES, UNKNOWN, card, template
from tokenunify_scale.model_card.__main__ import size_cards

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", re.ASCII)
LINK = re.compile(r"https?://[^\s>)\"'`]+")
ATTO = {"model": "emmamba_atto", "parameters": 5, "folder": "x"}


def parts(text: str) -> tuple[dict, str]:
    """YAML metadata and body of a card."""
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def parsed(text: str) -> huggingface_hub.ModelCard:
    """A card as the hub's own classes read it; their metadata gives the same card again."""
    found = huggingface_hub.ModelCard(text)
    again = huggingface_hub.ModelCardData(**yaml.safe_load(found.data.to_yaml()))
    assert again.to_dict() == found.data.to_dict()
    return found


def test_an_untrained_card_claims_no_score_and_no_data():
    text = card(model="emmamba_tiny", parameters=28_296_131, folder="x")
    data, (metadata, body) = parsed(text).data, parts(text)
    assert (data.library_name, data.license) == ("transformers", "apache-2.0")
    assert data.eval_results is None and data.datasets is None and data.base_model is None
    assert "None" not in metadata.values() and "28,296,131 parameters (Table 6)" in body
    assert "Nobody has trained these weights" in body
    for name in SCORES.values():
        assert f"| {name} | {UNKNOWN} | {UNKNOWN} |" in body


def test_a_trained_card_says_what_was_done_and_leaves_scores_open(finetune):
    text = card(**ATTO, run=finetune())
    data, body = parsed(text).data, parts(text)[1]
    assert "# emmamba_atto (affinity)" in body and "(not in the paper)" in body
    assert "- `a.h5:raw` with labels `a.h5:labels`" in body and "(p, p - e_c)" in body
    assert data.eval_results is None and UNKNOWN in body
    assert (data.license, data.pipeline_tag) == ("unknown", "image-segmentation")


def test_a_pretrained_card_names_its_shards_and_no_segmentation(pretrain):
    text = card(**ATTO, run=pretrain())
    body = parts(text)[1]
    assert "- `s1`" in body and "- `s2`" in body and "the reconstructed crop" in body
    assert parsed(text).data.pipeline_tag == "image-feature-extraction"
    assert "started from pre" not in body and "tokenunify segment" not in body


def test_measured_scores_are_the_hubs_eval_results(finetune, evaluate):
    text = card(**ATTO, run=finetune(), evaluations=[evaluate("a"), evaluate("b", labels="c.h5:l")])
    found = parsed(text).data.eval_results
    assert [(r.dataset_name, r.metric_type, r.metric_value) for r in found[:4]] == [
        ("b.h5:labels", "voi_split", 1.0), ("b.h5:labels", "voi_merge", 0.25),
        ("b.h5:labels", "voi", 1.25), ("b.h5:labels", "arand", 0.125),
    ]  # fmt: skip
    assert found[4].dataset_name == "c.h5:l" and found[0].metric_name == "VOI split (bits)"
    assert {r.task_type for r in found} == {"image-segmentation"}
    assert found[0].dataset_args == {"start": [0, 0, 0], "stop": [4, 8, 8]}


def test_a_base_and_data_sets_of_the_hub_are_named_where_they_are_known(finetune, write):
    pushed = {"metrics": {"pushed": "somewhere"}}
    write("ex", "export", config={"run": None, "push": "me/base"}, result=pushed)
    files = {"files": ["a.h5"], "volumes": [{"dataset": "wafer25"}]}
    write("d", "prepare", result=files)
    data = parsed(card(**ATTO, run=finetune(init="ex", volume=["d/a.h5:raw"]))).data
    assert (data.base_model, data.datasets) == ("me/base", ["cyd0806/wafer_EM"])
    assert (data.license, data.license_name) == ("other", "terms-of-the-training-data")


def test_a_folder_is_no_base_model(finetune, pretrain):
    pretrain()
    metadata, body = parts(card(**ATTO, run=finetune(init="pre")))
    assert "base_model" not in metadata and "started from pretraining (mae)" in body


def test_a_card_of_an_unfinished_run_says_so(finetune):
    text = card(**ATTO, run=finetune(done=False), checkpoint="step-00000040")
    parsed(text)
    assert "checkpoint `step-00000040`: training had not finished" in text


def test_a_card_of_released_weights_claims_no_training_of_ours(write):
    run = write(
        "imp", "import_official",
        result={"objective": "affinity", "file": "/home/me/a.pth", "sha256": "f00"},
    )  # fmt: skip
    text = card(model="emmamba_tiny", parameters=5, folder="x", run=run)
    body = parts(text)[1]
    assert "Trained elsewhere; read from `a.pth` (sha256 `f00`)" in body
    assert "| Trained by | others: the weights are of the paper's release |" in body
    assert "Not known: the weights come from a file" in body and "not measured here" in body
    assert parsed(text).data.license_name == "research-only" and "/home" not in text


def test_a_card_of_another_network_cites_its_authors_and_says_what_it_leaves_out(finetune):
    text = card(model="mala", parameters=5, folder="x", run=finetune())
    metadata, body = parts(text)
    assert "mala" in metadata["tags"] and "mamba" not in metadata["tags"]
    assert "Architecture: Funke et al. 2018 (MALA)" in body
    assert "not of the outer (14, 106, 106) voxels (z, y, x) of a crop" in body


def test_no_place_of_the_template_stays_open_and_braces_in_names_are_harmless(finetune):
    run = finetune(volume=["{x}.h5:raw"])
    text = card(model="emmamba_atto", parameters=5, folder="runs/{y}", run=run)
    assert "{x}.h5:raw" in text and 'load_model("runs/{y}")' in text
    for place in re.findall(r"(?<!\{)\{(\w+)\}", template()):
        assert f"{{{place}}}" not in text, place


def test_an_unknown_model_has_no_card():
    with pytest.raises(ConfigError, match="unknown model 'emmamba_hgue'"):
        card(model="emmamba_hgue", parameters=1, folder="x")


@pytest.mark.parametrize("name, text", size_cards().items())
def test_the_cards_of_table_6_are_what_the_code_would_write(name, text):
    written = (ROOT / "model_cards" / f"{name}.md").read_text()
    assert written == text, "write them again: python -m tokenunify_scale.model_card"
    loaded = huggingface_hub.ModelCard.load(ROOT / "model_cards" / f"{name}.md")
    assert loaded.data.library_name == "transformers"


PROSE = {0.0, 1.0, 3.0, 95.0}  # [0, 1], [B, 1, ...], "3-D", the level of intervals


def numbers(text: str) -> set[float]:
    """All numbers of a text."""
    return {float(word.replace(",", "")) for word in NUMBER.findall(text) if word.strip(",")}


def records(folder: Path) -> str:
    """All that a folder says in text."""
    names = ("config.yaml", "result.json", "environment.json", "metrics.jsonl", "index.json")
    return "\n".join((folder / n).read_text() for n in names if (folder / n).is_file())


def derived(folder: Path) -> set[str]:
    """What a card computes from a run's records: rounded times, hours, FLOPs, memory."""
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    hours = result["seconds"] / 3600
    last = [line for line in lines if "tflop_per_s" in line][-1]
    flops = last["tflop_per_s"] * 1e12 / last["crops_per_s"] * result["crops_seen"]
    peak = max(line["peak_rss_gib"] for line in lines)
    rounded = (hours, hours * result["world"], flops, peak)
    return {f"{result['seconds']:,.0f}", *(f"{value:.3g}" for value in rounded)}


def spread(measured: list[dict]) -> list[float]:
    """Mean, standard deviation and interval of each score of several evaluations."""
    found = []
    for key in SCORES:
        values = [metrics[key] for metrics in measured]
        error = stats.sem(values)
        ends = stats.t.interval(0.95, len(values) - 1, np.mean(values), error) if error else values
        found += [np.mean(values), np.std(values, ddof=1), *ends]
    return found


@pytest.mark.slow
def test_every_number_and_link_of_a_real_card_has_a_source(
    finetuned, pretrained, demo, tokenunify, tmp_path
):
    volume = demo / "volume" / "synthetic.h5"
    words = ("--segmentation", f"{volume}:raw", "--labels", f"{volume}:labels")
    for name, more in {"all": (), "half": ("--sections", "8:16")}.items():
        options = ("--neurons", "off", "--viewer", "off", "--out", tmp_path / name, *more)
        done = tokenunify("evaluate", *words, *options)
        assert done.returncode == 0, done.stderr
    evaluations = [tmp_path / "all", tmp_path / "half"]
    settings = {"name": "waterz", "threshold": 0.375}
    text = card(
        model="emmamba_atto",
        parameters=json.loads((finetuned / "result.json").read_text())["model"]["parameters"],
        folder="atto",
        run=finetuned,
        evaluations=evaluations,
        postprocessing=settings,
    )
    data, body = parsed(text).data, parts(text)[1]
    assert data.license == "apache-2.0", "both saw made-up volumes only"
    assert "started from pretraining (tokenunify)" in body and "scores flatter" in body
    measured = [json.loads((e / "result.json").read_text())["metrics"] for e in evaluations]
    told = [r.metric_value for r in data.eval_results]
    assert min(told) > 0, "grey values taken as ids are no good segmentation"
    assert told == [m[key] for m in measured for key in SCORES]
    assert str(demo) not in text and str(tmp_path) not in text and "/home" not in text

    folders = [finetuned, pretrained, demo / "shards", *evaluations]
    strategy = (ROOT / "ds_configs" / "atto.json").read_text()
    with h5py.File(volume) as file:
        facts = f"{file['raw'].shape} {file['raw'].attrs['voxel_size'].tolist()}"
    sources = "\n".join([*map(records, folders), facts, str(settings), strategy, template()])
    known = numbers(sources) | PROSE
    percents = {100 * value for value in known if 0 < value <= 1}
    rounded = {f"{score:.4f}" for score in [*told, *spread(measured)]}
    rounded |= {word for folder in (finetuned, pretrained) for word in derived(folder)}
    for word in NUMBER.findall(re.sub(r"`[^`]*`", " ", body)):
        value = float(word.replace(",", ""))
        assert value in known | percents or word in rounded, f"{word} has no source"
    pages = {dataset.page for dataset in DATASETS.values()}
    assert {*LINK.findall(text)} <= pages | {*LINK.findall(template())}
