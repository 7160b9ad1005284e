import pytest
import torch

from tests.models.released import Network, network
from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.models import build_model
from tokenunify_scale.models.emmamba import SIZES, SMALL_SIZES
from tokenunify_scale.models.load import build_chosen
from tokenunify_scale.models.official import (
    check,
    clean,
    from_official,
    infer,
    released_shapes,
    to_official,
)

CROP = (16, 16, 80)
STAGE_3 = "vit.stages.3.1.norm.weight"


def imported(weights):
    """Our network with released weights."""
    kept, _ = clean(weights, file="F")
    released = infer(kept, file="F")
    model = build_chosen(
        released.model, in_channels=released.in_channels, out_channels=released.out_channels
    )
    model.load_state_dict(from_official(kept, released=released, file="F"))
    return model.eval()


def refusal(weights, kind=DataError):
    """What is said of weights that are not taken; one line."""
    with pytest.raises(kind) as caught:
        kept, _ = clean(weights, file="F")
        check(kept, released=infer(kept, file="F"), file="F")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("F: ")
    return str(caught.value)[3:]


@pytest.fixture
def weights():
    """Of a small released network; shapes alone, as no test changes a value."""
    with torch.device("meta"):
        shapes = Network((4, 8, 16, 32), 64).state_dict()
    return {key: torch.zeros(tensor.shape) for key, tensor in shapes.items()}


@pytest.mark.parametrize("size", {**SMALL_SIZES, **SIZES})
def test_every_size_has_291_tensors_with_the_names_and_shapes_of_the_release(size):
    config = {**SMALL_SIZES, **SIZES}[size]
    with torch.device("meta"):
        theirs = Network(config.features, config.hidden).state_dict()
        ours = build_model(f"emmamba_{size}", preset="official").state_dict()
    found = to_official(ours)
    assert len(found) == 291 and len(ours) == 179
    assert {k: t.shape for k, t in found.items()} == {k: t.shape for k, t in theirs.items()}
    released = infer(theirs, file="F")
    assert released.model.name == f"emmamba_{size}" and released.model.options.preset == "official"
    check(theirs, released=released, file="F")


@pytest.mark.parametrize(
    "options",
    [{}, {"depth": 3, "kernel": 3, "outputs": 1}, {"depth": 1, "state": 8, "taps": 3}],
    ids=str,
)
@torch.inference_mode()
def test_our_network_computes_what_the_released_one_does(options):
    theirs = network(**options).double()
    ours = imported(theirs.state_dict()).double()
    assert ours.out.out_channels == options.get("outputs", 3)
    assert len(ours.stages[2]) == options.get("depth", 2)
    assert ours.encoder2.conv1.kernel_size[2] == options.get("kernel", 5)
    crop = torch.rand(2, 1, *CROP, generator=torch.Generator().manual_seed(1)).double()
    expected = theirs(crop)
    assert expected.std() > 0.05
    # Ours takes the exponential of A_log in float32, whatever the rest is in.
    torch.testing.assert_close(ours(crop), expected, atol=1e-7, rtol=0)


@torch.inference_mode()
def test_in_float32_the_two_differ_by_rounding():
    torch.manual_seed(0)
    theirs, crop = Network((4, 8, 16, 32), 64).eval(), torch.rand(1, 1, *CROP)
    torch.testing.assert_close(imported(theirs.state_dict())(crop), theirs(crop), atol=3e-5, rtol=0)


@pytest.mark.parametrize("direction", [0, 1, 2])
@torch.inference_mode()
def test_no_two_directions_are_alike_so_that_none_can_be_taken_for_another(direction):
    theirs, crop = network(), torch.rand(1, 1, *CROP)
    ours = imported(theirs.state_dict())
    before = ours(crop)
    for name, parameter in ours.named_parameters():
        if name.startswith("stages.0.0.mamba.") and parameter.ndim in (2, 3):
            if parameter.shape[0] == 3:
                parameter[direction] = parameter[direction - 1].clone()
    assert (ours(crop) - before).abs().max() > 1e-3


def test_there_and_back_no_bit_changes():
    theirs = network(depth=3, kernel=3).state_dict()
    ours = imported(theirs).state_dict()
    back = to_official(ours)
    assert back.keys() == theirs.keys() and len(back) == 291 + 4 * 25
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)
    again = imported(back).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def test_nothing_is_shared_with_what_came_in():
    theirs = network().state_dict()
    ours = imported(theirs).state_dict()
    before = ours["out.weight"].clone()
    theirs["out.conv.conv.weight"].zero_()
    to_official(ours)["out.conv.conv.weight"].zero_()
    assert torch.equal(ours["out.weight"], before)


def test_what_is_not_of_the_network_is_left_out_and_counted(weights):
    extra = {f"module.{key}": tensor for key, tensor in weights.items()}
    extra["module.total_ops"] = torch.zeros(1, dtype=torch.float64)
    extra["module.vit.gscs.0.total_params"] = torch.zeros(1)
    extra |= {f"preciever.layers.{i}.weight": torch.zeros(2, dtype=torch.int64) for i in range(5)}
    kept, dropped = clean(extra, file="F")
    assert kept.keys() == weights.keys()
    assert dropped == {"total_ops": 1, "total_params": 1, "preciever": 5}


def test_halves_and_doubles_become_float32(weights):
    halves = {key: tensor.bfloat16() + 1 for key, tensor in weights.items()}
    halves["out.conv.conv.bias"] = halves["out.conv.conv.bias"].double()
    ours = from_official(halves, released=infer(halves, file="F"), file="F")
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}


def test_stages_of_different_depth_are_refused_by_the_first_missing_name(weights):
    short = {key: t for key, t in weights.items() if not key.startswith("vit.stages.3.1.")}
    assert refusal(short) == f"{STAGE_3} is missing, expected shape (32,): stage 0 has 2 layers"
    deep = {**weights, "vit.stages.2.900000000.norm.weight": torch.zeros(16)}
    expected = "vit.stages.0.2.norm.weight is missing, expected shape (4,): stage 2 has"
    assert refusal(deep).startswith(expected)


@pytest.mark.parametrize(
    "key, shape",
    [
        (STAGE_3, "(32,)"),
        ("vit.stages.1.0.mamba.conv1d_s.weight", "(16, 1, 4)"),
        ("vit.downsample_layers.0.0.weight", "(f0, in, 1, 7, 7)"),
        ("encoder1.layer.conv1.conv.weight", "(4, 1, 1, k, k)"),
        ("decoder2.conv_block.conv3.conv.weight", "(4, 8, 1, 1, 1)"),
        ("out.conv.conv.bias", "(3,)"),
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(weights, key, shape):
    del weights[key]
    assert refusal(weights) == f"{key} is missing, expected shape {shape}"
    weights[key] = torch.zeros(2, 2)
    assert refusal(weights).startswith(f"{key} has shape (2, 2), expected (")


def test_no_tensors_at_all_miss_the_first():
    assert refusal({}).startswith("vit.downsample_layers.0.0.weight is missing")


def test_tensors_of_another_network_are_counted_and_some_are_named(weights):
    more = {f"decoder.blocks.{i}.weight": torch.zeros(1) for i in range(9)}
    line = refusal({**weights, **more})
    assert line.startswith("9 tensors of another network: 'decoder.blocks.0.weight', ")
    assert line.endswith("'decoder.blocks.2.weight', ..")
    assert refusal({**weights, "a\nb": torch.zeros(1)}).endswith(r"network: 'a\nb'")


def test_widths_that_no_size_has_are_refused_with_the_table():
    with torch.device("meta"):
        other = Network((4, 8, 16, 48), 64).state_dict()
    with pytest.raises(ConfigError) as caught:
        infer(other, file="F")
    assert "no size has features (4, 8, 16, 48) and hidden 64: atto (4, 8, 16, 32) 64" in str(
        caught.value
    )
    assert "huge (192, 384, 768, 1536) 3072" in str(caught.value)


def test_a_kernel_without_a_middle_is_refused():
    with torch.device("meta"):
        other = Network((4, 8, 16, 32), 64, kernel=4).state_dict()
    with pytest.raises(ConfigError, match="^F: skip_kernel must be odd"):
        infer(other, file="F")


@pytest.mark.parametrize(
    "value, said",
    [
        (3, "is of type int, expected a tensor"),
        (torch.zeros(3, dtype=torch.int64), "torch.int64"),
        (torch.zeros(3).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(3, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(3, device="meta"), "no plain tensor"),
    ],
    ids=str,
)
def test_what_is_no_tensor_of_numbers_is_refused(weights, value, said):
    weights["out.conv.conv.bias"] = value
    assert refusal(weights).startswith("'out.conv.conv.bias' is ") and said in refusal(weights)


def test_a_name_that_stands_twice_is_refused(weights):
    weights["module.out.conv.conv.bias"] = torch.zeros(3)
    assert refusal(weights).startswith("'out.conv.conv.bias' stands twice")


def test_a_tensor_that_is_not_ours_has_no_released_name():
    with pytest.raises(ConfigError, match="'encoder9' is not a tensor of EMmamba"):
        released_shapes("encoder9", (1,))
