from pathlib import Path

import pytest

from tokenunify_scale.config import (
    ConfigError,
    Document,
    assign,
    dump_yaml,
    load_document,
    load_recipe,
    load_yaml,
    override,
    scalar,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "request.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-6", 1e-6),
        ("-3", -3),
        (".5", 0.5),
        ("2.", 2.0),
        ("0:50", "0:50"),
        ("010", 10),
        ("1_000", "1_000"),
        ("True", True),
        ("none", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("16x64x64", "16x64x64"),
    ],
)
def test_a_plain_word_is_read_as_people_mean_it(text, value):
    assert scalar(text) == value and type(scalar(text)) is type(value)


def test_a_file_gives_plain_data_and_quoted_words_stay_text(tmp_path):
    path = write(tmp_path, "rate: 1e-6\nsections: 0:50\nname: '7'\nlist: [1, a, 2.5]\nin: {a: ~}\n")
    expected = {"rate": 1e-6, "sections": "0:50", "name": "7", "list": [1, "a", 2.5]}
    assert load_yaml(path) == {**expected, "in": {"a": None}}
    assert load_yaml(write(tmp_path, "# nothing\n")) == {}


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\nb: 2\na: 3\n", ":3: a stands twice"),
        ("in:\n  a: 1\n  a: 2\n", ":3: in.a stands twice"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: b: c\n", "not valid YAML"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("word\n", "expected a mapping"),
    ],
)
def test_a_file_that_is_not_one_mapping_of_different_keys_is_refused(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_document(path)
    assert str(path) in str(caught.value) and words in str(caught.value)


def test_a_missing_file_is_a_wrong_request():
    with pytest.raises(ConfigError, match="nowhere.yaml: no such file") as caught:
        load_document("nowhere.yaml")
    assert caught.value.exit_code == 2


def test_a_recipe_is_found_by_name_or_by_path(tmp_path):
    shipped = load_recipe("cpu_demo")
    assert shipped.data["name"] == "cpu_demo"
    assert load_recipe("cpu_demo.yaml").data == load_recipe(shipped.path).data == shipped.data
    assert load_recipe(write(tmp_path, "a: 1\n")).data == {"a": 1}
    with pytest.raises(ConfigError, match="did you mean 'cpu_demo'"):
        load_recipe("cpu_dmo")


def test_an_override_reaches_a_nested_key_and_leaves_the_rest():
    data = {"optim": {"rate": 1.0, "steps": 2}, "filter": "blur"}
    assert override(data, "optim.rate=1e-6")["optim"] == {"rate": 1e-6, "steps": 2}
    assert override(data, "filter.sigma=3")["filter"] == {"name": "blur", "sigma": 3}
    assert override(data, "new.deep.key=a=b")["new"] == {"deep": {"key": "a=b"}}
    assert override(data, "crop=[16, 64, 64]")["crop"] == [16, 64, 64]
    assert override(data, "filter={name: blur, sigma: 1e-1}")["filter"]["sigma"] == 0.1
    assert override(data, "sections=0:50")["sections"] == "0:50"
    assert data == {"optim": {"rate": 1.0, "steps": 2}, "filter": "blur"}


@pytest.mark.parametrize("text", ["optim.rate", "=3"])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="expected key=value"):
        override({}, text)


def test_a_number_has_no_keys_to_set():
    with pytest.raises(ConfigError, match="share is 3, so share.more cannot be set"):
        assign({"share": 3}, ["share", "more"], 1)


def test_a_place_is_the_key_alone_where_no_file_is_behind_it():
    assert Document({}).place("a.b") == "a.b"
    assert Document({}, Path("f.yaml"), {"a.b": 3}).place("a.b") == "a.b (f.yaml:3)"


@pytest.mark.parametrize("assignment", ["size=", "size=[1,2", "size={a: [}"])
def test_an_unfinished_word_of_set_is_a_wrong_request_not_a_crash(assignment):
    if assignment == "size=":
        assert override({}, assignment) == {"size": None}
        return
    with pytest.raises(ConfigError, match="is not a list or mapping"):
        override({}, assignment)


def test_a_binary_file_and_a_key_that_is_no_word_are_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "keys.yaml").write_text("a: 1\n? [b]\n: 2\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="keys.yaml:2: a key must be one word"):
        load_yaml(tmp_path / "keys.yaml")


def test_text_that_looks_like_something_else_survives_a_file(tmp_path):
    data = {"name": "none", "path": "1e5", "sections": "0:50", "list": ["true", "12", "plain"]}
    (tmp_path / "config.yaml").write_text(dump_yaml(data))
    assert load_yaml(tmp_path / "config.yaml") == data
