import pytest
import torch
from torch import nn

from tokenunify_scale.config import ConfigError, DataError, build_named
from tokenunify_scale.models.load import (
    Transfer,
    build_chosen,
    choice,
    describe,
    load_model,
    parameters_of,
    start_from,
    strategy_of,
)
from tokenunify_scale.registry import MODELS
from tokenunify_scale.train.checkpoint import WEIGHTS, read_weights, save_weights

SMALL = build_named(
    {"name": "emmamba_atto", "features": [2, 2, 4, 4], "hidden": 4}, MODELS, where="a test"
)


def network(out_channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_chosen(SMALL, in_channels=1, out_channels=out_channels)


def saved(folder, model: nn.Module, out_channels: int = 3):
    about = describe(SMALL, in_channels=1, out_channels=out_channels, objective="affinity")
    return save_weights(folder, dict(model.state_dict()), about)


def test_a_saved_network_loads_back_ready_for_use_and_computes_the_same(tmp_path):
    model = network()
    saved(tmp_path, model)
    loaded = load_model(tmp_path)
    assert not loaded.training
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    assert loaded.config == model.config
    crop = torch.rand(1, 1, 16, 16, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(crop), model.eval()(crop))


def test_a_description_names_the_same_network(tmp_path):
    saved(tmp_path, network(out_channels=1), out_channels=1)
    weights, description = read_weights(tmp_path)
    assert choice(description) == SMALL
    assert (description.out_channels, description.objective) == (1, "affinity")
    assert load_model(tmp_path).out.out_channels == 1
    assert sum(tensor.numel() for tensor in weights.values()) == parameters_of(network(1))


@pytest.mark.parametrize("keep", [0, 1000, -8])
def test_a_damaged_file_is_a_data_error(tmp_path, keep):
    path = saved(tmp_path, network())
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(DataError, match=f"{WEIGHTS}: damaged"):
        load_model(tmp_path)


def test_weights_that_do_not_fit_their_own_description_are_refused(tmp_path):
    about = describe(SMALL, in_channels=1, out_channels=3, objective="affinity")
    save_weights(tmp_path, {"stem": torch.zeros(3)}, about)
    with pytest.raises(ConfigError, match="weights do not fit"):
        load_model(tmp_path)


def test_a_network_this_version_does_not_know_is_refused(tmp_path):
    about = describe(SMALL, in_channels=1, out_channels=3, objective="affinity")
    about.model["name"] = "emmamba_giant"
    save_weights(tmp_path, dict(network().state_dict()), about)
    with pytest.raises(ConfigError, match="the weights' header.*unknown model 'emmamba_giant'"):
        load_model(tmp_path)


def test_all_but_the_head_of_another_task_is_taken_over():
    source, model = network(out_channels=1, seed=1), network(out_channels=3, seed=2)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters()}
    transfer = start_from(model, dict(source.state_dict()))
    assert transfer.new == transfer.unused == ()
    assert transfer.refused == (
        "out.bias: (1,), (3,)",
        "out.weight: (1, 2, 1, 1, 1), (3, 2, 1, 1, 1)",
    )
    assert len(transfer.loaded) == len(fresh) - 2
    given = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        origin = fresh[name] if name.startswith("out.") else given[name]
        assert torch.equal(parameter, origin), name


def test_what_is_on_one_side_only_is_named():
    model = network()
    weights = dict(model.state_dict())
    weights["extra.weight"] = weights.pop("out.bias")
    transfer = start_from(model, weights)
    assert transfer.new == ("out.bias",) and transfer.unused == ("extra.weight",)


def test_start_from_changes_values_in_place_and_keeps_gradients_on():
    model, source = network(seed=1), network(seed=2)
    before = [id(parameter) for parameter in model.parameters()]
    start_from(model, dict(source.state_dict()))
    assert [id(parameter) for parameter in model.parameters()] == before
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("weights", [{}, {"foreign": torch.zeros(3)}])
def test_not_one_fitting_tensor_is_an_error(weights):
    with pytest.raises(ConfigError, match="^0 of the network's"):
        start_from(network(), weights)


def test_weights_of_another_size_are_refused_although_a_tensor_or_two_fit_by_chance():
    other = build_named(
        {"name": "emmamba_atto", "features": [2, 3, 5, 6], "hidden": 7}, MODELS, where="a test"
    )
    weights = dict(build_chosen(other, in_channels=1, out_channels=3).state_dict())
    model = network()
    before = model.out.bias.detach().clone()
    assert weights["out.bias"].shape == before.shape
    with pytest.raises(ConfigError, match="another architecture or size"):
        start_from(model, {name: tensor + 1 for name, tensor in weights.items()})
    assert torch.equal(model.out.bias, before)


def test_the_table_has_a_line_a_kind_a_column_a_group_and_names_where_they_are_few():
    groups = {"a": "mamba", "b": "mamba", "c": "decoder", "d": "decoder"}
    transfer = Transfer(("a",), (), ("c: (1,), (3,)",), ("x",) * 9, ("b", "d"), groups)
    head, *lines = transfer.table().splitlines()
    assert head.split() == ["mamba", "decoder", "all"]
    assert [line.split()[0] for line in lines] == ["loaded", "new", "refused", "left", "unused"]
    assert lines[0].split() == ["loaded", "1", "0", "1", "a"]
    assert lines[2].split()[:4] == ["refused", "0", "1", "1"]
    assert lines[2].endswith("1  c: (1,), (3,)")
    assert lines[3].split() == ["left", "1", "1", "2", "b;", "d"]
    assert lines[4].split() == ["unused", "9"]  # of no group, too many to name


def test_only_the_groups_that_are_asked_for_are_taken_over():
    source, model = network(seed=1), network(seed=2)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters()}
    transfer = start_from(model, dict(source.state_dict()), groups=["mamba"])
    given = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        of_mamba = name.startswith("stages.")
        assert torch.equal(parameter, (given if of_mamba else fresh)[name]), name
        assert (name in transfer.loaded) == of_mamba and (name in transfer.left) != of_mamba
    assert transfer.fresh() == set() == {*transfer.new, *transfer.refused, *transfer.unused}


def test_a_group_of_which_nothing_fits_is_an_error_that_says_what_would():
    weights = dict(network().state_dict())
    weights = {n: t[..., None] if n.startswith("stages.") else t for n, t in weights.items()}
    with pytest.raises(ConfigError, match=r"\(mamba: none\).*load only what fits: encoder, decod"):
        start_from(network(), weights)
    assert start_from(network(), weights, groups=["encoder", "decoder"]).loaded


def test_a_group_of_which_less_than_half_fits_is_a_warning():
    weights = dict(network().state_dict())
    stages = [name for name in weights if name.startswith("stages.")]
    for name in stages[2:]:
        del weights[name]
    (line,) = start_from(network(), weights).warnings()
    assert line.startswith(f"only 2 of the {len(stages)} tensors of the mamba are in the file")


def test_names_and_shapes_of_both_sides_are_in_the_error():
    with pytest.raises(ConfigError) as error:
        start_from(network(), {"foreign": torch.zeros(3)})
    assert "is absent there" in str(error.value) and "foreign (3,) is there" in str(error.value)
    other = build_named({"name": "emmamba_femto"}, MODELS, where="a test")
    weights = dict(build_chosen(other, in_channels=1, out_channels=3).state_dict())
    with pytest.raises(ConfigError, match=r"is \(\d.*\) there, \(\d.*\) here"):
        start_from(network(), weights)


def test_a_network_without_the_groups_that_are_asked_for_says_which_it_has():
    choice = build_named({"name": "superhuman"}, MODELS, where="a test")
    with torch.device("meta"):
        model = build_chosen(choice, in_channels=1, out_channels=3)
    with pytest.raises(ConfigError, match="no tensors in mamba, it has"):
        start_from(model, dict(model.state_dict()), groups=["mamba"])


def test_a_width_between_the_sizes_is_sharded_as_the_next_larger_size():
    asked = ("emmamba_huge", "unetr_1b", "emmamba_w6", "emmamba_w16", "emmamba_w100")
    assert [strategy_of(name) for name in asked] == ["huge", "unetr_1b", "femto", "nano", "large"]
