import pytest

from tokenunify_scale import cli
from tokenunify_scale.cli import VERBS, main


def call(capsys, *words):
    code = main(words=[str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_no_words_and_help_show_every_command(capsys):
    assert call(capsys)[0] == 2
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(verb in out for verb in [*VERBS, "scaling", "models", "status"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_of_a_verb_is_explained(capsys, verb):
    with pytest.raises(SystemExit, match="0"):
        main(verb, ["--help"])
    out = capsys.readouterr().out
    assert "--recipe" in out and "--dry-run" in out and "--out" in out


@pytest.mark.parametrize(
    "words, hint",
    [
        (["pretrian"], "did you mean 'pretrain'"),
        (["pretrain", "--size", "hgue"], "did you mean 'emmamba_huge'"),
        (["pretrain", "--set", "optim.lrr=1"], "did you mean 'lr'"),
        (["pretrain", "--stepz", "3"], "did you mean '--steps'"),
        (["pretrain", "--steps", "many"], "steps is 'many', expected int"),
        (["pretrain", "--steps", "0"], "steps must be >= 1, got 0"),
        (["pretrain", "--set", "objective.name=mea"], "did you mean 'mae'"),
        (["pretrain", "--recipe", "cpu_dmo"], "did you mean 'cpu_demo'"),
        (["pretrain", "--crop", "16,100,160", "--dry-run"], "not a multiple of patch (4, 16, 16)"),
        (["pretrain", "--global-batch", "3", "--set", "zero=7", "--dry-run"], "valid: 0, 1, 2, 3"),
        (["scaling", "run", "no_such_study"], "no_such_study"),
        (["scaling", "go", "cpu_demo"], "invalid choice"),
        (["benchmark"], "required: scan|step"),
        (["benchmark", "scam"], "did you mean 'scan'"),
    ],
)
def test_a_wrong_request_is_one_line_with_code_2(capsys, words, hint):
    code, _, err = call(capsys, *words)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and hint in lines[0]


def test_all_mistakes_are_reported_at_once(capsys):
    code, _, err = call(capsys, "pretrain", "--size", "hgue", "--set", "optim.lrr=1")
    assert code == 2 and "emmamba_huge" in err and "lrr" in err


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--size", "atto", "--shards", "no/such/folder"],
        ["predict", "--model", "no/such/run", "--volume", "synthetic"],
        ["finetune", "--size", "atto", "--volume", "no.h5:raw", "--labels", "no.h5:labels"],
        ["segment", "--affinities", "no/such/run"],
        ["export", "--run", "no/such/run"],
    ],
)
def test_missing_data_is_one_line_with_code_4(capsys, words):
    code, _, err = call(capsys, *words)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 4 and len(lines) == 1 and "no" in lines[0]


def test_huge_can_be_planned_without_data(capsys):
    code, out, _ = call(capsys, "pretrain", "--size", "huge", "--dry-run")
    assert code == 0 and "1,008,908,931" in out and "memory_per_rank_GiB" in out


def test_what_must_be_said_is_a_word_of_its_own(capsys):
    code, out, _ = call(capsys, "benchmark", "step", "--size", "atto", "--dry-run")
    assert code == 0 and "what: step" in out
    assert main("benchmark", ["scan", "--size", "atto", "--dry-run"]) == 0
    assert "what: scan" in capsys.readouterr().out


def test_the_launchers_local_rank_is_ignored(capsys):
    code = main("pretrain", ["--local_rank=1", "--size", "atto", "--dry-run"])
    assert code == 0 and "emmamba_atto" in capsys.readouterr().out


def test_list_shows_the_names_that_can_be_chosen(capsys):
    code, out, _ = call(capsys, "pretrain", "--list")
    assert code == 0
    assert all(name in out for name in ("emmamba_huge", "tokenunify", "mae", "autoregressive"))


def test_flags_and_sets_win_over_the_recipe(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: emmamba_atto\nsteps: 7\noptim: {lr: 1e-6}\n")
    words = ["pretrain", "--recipe", recipe, "--steps", 9, "--set", "optim.warmup=0.5", "--dry-run"]
    code, out, _ = call(capsys, *words)
    assert code == 0
    for line in ("steps: 9", "lr: 1.0e-06", "warmup: 0.5", "name: emmamba_atto"):
        assert line in out


def test_a_mistake_in_a_recipe_is_named_with_its_line(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("steps: 7\noptim:\n  lr: fast\n")
    code, _, err = call(capsys, "pretrain", "--recipe", recipe)
    assert code == 2 and f"optim.lr ({recipe}:3) is 'fast', expected float" in err


def test_status_of_a_finished_run(capsys, pretrained, tmp_path):
    code, out, _ = call(capsys, "status", pretrained)
    assert code == 0 and "state: finished" in out and "emmamba_atto" in out
    assert call(capsys, "status", tmp_path)[0] == 2


def test_segment_with_a_model_refuses_its_own_mistakes_before_it_predicts(capsys, tmp_path):
    words = ["segment", "--model", "no/such", "--volume", "synthetic", "--out", tmp_path / "out"]
    code, _, err = call(capsys, *words, "--set", "postprocess.scorin=mean")
    assert code == 2 and "did you mean 'scoring'" in err
    assert call(capsys, *words[:3])[0] == 2
    assert call(capsys, *words, "--affinities", "a")[0] == 2
    assert not (tmp_path / "out").exists()


def test_segment_takes_an_exports_settings_and_what_is_said_goes_over_them(
    exported_settings, demo, capsys
):
    def planned(*more):
        volume = f"{demo / 'volume' / 'synthetic.h5'}:raw"
        words = ["--model", exported_settings, "--volume", volume, "--dry-run", *more]
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "build", lambda config, document, where: seen.append(document))
            patch.setattr(cli, "_do", lambda verb, request, dry_run: seen.append(request))
            assert main("segment", [str(word) for word in words]) == 0
        segment, predict = seen
        return segment.data, predict

    segment, predict = planned()
    known = {"name": "waterz", "threshold": 0.3, "scoring": "q75"}
    assert segment["postprocess"] == known and segment["min_size"] == 9
    assert predict["tile"] == [8, 32, 32]
    segment, _ = planned("--set", "postprocess.threshold=0.4", "--min-size", 0)
    assert segment["postprocess"] == {**known, "threshold": 0.4}
    assert int(segment["min_size"]) == 0
    segment, _ = planned("--set", "postprocess.name=multicut")
    assert segment["postprocess"] == {"name": "multicut"} and "min_size" not in segment


@pytest.fixture
def exported_settings(tmp_path):
    """A folder that tells how it was used."""
    (tmp_path / "preprocessor_config.json").write_text('{"axes": "bczyx", "tile": [8, 32, 32]}')
    text = '{"name": "waterz", "threshold": 0.3, "scoring": "q75", "min_size": 9}'
    (tmp_path / "postprocessor_config.json").write_text(text)
    return tmp_path
