import pytest
import torch
from torch import nn
from torch.nn import functional

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model, list_models
from tokenunify_scale.models.count import cost
from tokenunify_scale.models.emmamba import EMmamba
from tokenunify_scale.models.emmamba_config import SIZES, SMALL_SIZES, EMmambaConfig

# Source: Table 6; component totals as measured on the paper's release.
TOTALS = {
    "tiny": 28_296_131,
    "small": 112_534_403,
    "middle": 206_577_475,
    "large": 506_567_395,
    "huge": 1_008_908_931,
}
COMPONENTS = {
    "tiny": (174_080, 1_493_760, 4_876_160, 349_600, 13_256_512, 8_145_920, 99),
    "huge": (6_205_440, 44_213_760, 175_484_160, 12_542_400, 477_209_472, 293_253_120, 579),
}
CROP = (16, 16, 32)
OFFICIAL_CROP = (16, 16, 80)


def network(preset: str = "default", habits: dict | None = None, **options) -> EMmamba:
    torch.manual_seed(0)
    config = EMmambaConfig(features=(2, 2, 4, 4), hidden=4, preset=preset, **(habits or {}))
    return EMmamba(config, **options).eval()


def noise(*sides: int) -> torch.Tensor:
    return torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(1))


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("sections", ["mean", "keep"])
@pytest.mark.parametrize("size", SIZES)
def test_parameter_totals_are_those_of_table_6(size, sections):
    with torch.device("meta"):
        model = build_model(f"emmamba_{size}", sections=sections)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count(model) == TOTALS[size]


@pytest.mark.parametrize("size", COMPONENTS)
def test_each_component_has_the_parameters_of_the_release(size):
    with torch.device("meta"):
        model = build_model(f"emmamba_{size}", preset="official")
    skips = [getattr(model, f"encoder{i}") for i in range(1, 6)]
    decoder = [getattr(model, f"decoder{i}") for i in range(1, 6)]
    found = (
        count(model.downsample),
        count(model.stages),
        count(model.gscs),
        count(model.mlps),
        count(*skips),
        count(*decoder),
        count(model.out),
    )
    assert found == COMPONENTS[size] and sum(found) == TOTALS[size]


def test_presets_differ_in_no_parameter():
    with torch.device("meta"):
        default, official = (
            {n: p.shape for n, p in build_model("emmamba_atto", preset=preset).named_parameters()}
            for preset in ("default", "official")
        )
        kept = build_model("emmamba_atto", sections="keep").named_parameters()
    assert default == official and len(default) == 179  # as many as the release's tensors
    assert default == {name: parameter.shape for name, parameter in kept}


def test_small_sizes_are_not_said_to_be_in_the_paper():
    from tokenunify_scale.registry import MODELS

    assert [f"emmamba_{size}" for size in (*SMALL_SIZES, *SIZES)] == list_models()[:9]
    for size in SMALL_SIZES:
        assert MODELS.get(f"emmamba_{size}").source == "not in the paper"
    for size in SIZES:
        assert MODELS.get(f"emmamba_{size}").source == "Table 6"


def test_features_of_the_papers_crop_halve_all_sides_stage_by_stage():
    torch.manual_seed(0)
    with torch.inference_mode():
        model = build_model("emmamba_atto")
        shapes = [tuple(map_.shape[1:]) for map_ in model.features(noise(16, 160, 160))]
    assert shapes == [(4, 8, 80, 80), (8, 4, 40, 40), (16, 2, 20, 20), (32, 1, 10, 10)]


@torch.inference_mode()
def test_the_output_has_the_crops_sides_and_lies_between_0_and_1():
    output = network(in_channels=2, out_channels=5)(torch.rand(2, 2, *CROP))
    assert output.shape == (2, 5, *CROP)
    assert 0 < output.min() and output.max() < 1


@torch.inference_mode()
def test_by_default_every_section_reaches_every_feature_map():
    model, crop = network(), noise(*CROP)
    before = model.features(crop)
    for section in range(CROP[0]):
        changed = crop.clone()
        changed[:, :, section] = 1 - changed[:, :, section]
        for level, (old, new) in enumerate(zip(before, model.features(changed), strict=True)):
            assert not torch.equal(old, new), f"section {section}, stage {level}"


@torch.inference_mode()
def test_the_official_encoder_never_sees_odd_sections():
    model, crop = network("official"), noise(*OFFICIAL_CROP)
    before = model.features(crop)
    odd, even = crop.clone(), crop.clone()
    odd[:, :, 1::2] = 0
    even[:, :, 2] = 0
    for old, new in zip(before, model.features(odd), strict=True):
        assert torch.equal(old, new)
    assert not torch.equal(before[0], model.features(even)[0])


@torch.inference_mode()
@pytest.mark.parametrize(
    "preset, crop, chunks",
    [("default", (32, 16, 16), [16, 8, 4, 2]), ("official", OFFICIAL_CROP, [5, 5, 5, 5])],
)
def test_the_third_scan_interleaves_the_sections_of_its_stage_by_default(preset, crop, chunks):
    model, calls = network(preset), []
    for stage in model.stages:
        for layer in stage:
            layer.register_forward_pre_hook(
                lambda _, args, options: calls.append(options), with_kwargs=True
            )
    model(noise(*crop))
    residual = preset == "default"
    assert calls == [{"chunks": n, "residual": residual} for n in chunks for _ in range(2)]


@torch.inference_mode()
def test_presets_compute_different_things_from_the_same_weights():
    default, official = network(), network("official")
    official.load_state_dict(default.state_dict())
    crop = noise(*OFFICIAL_CROP)
    assert (default(crop) - official(crop)).abs().max() > 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("sides", [(5, 33, 47), (1, 1, 1), (17, 16, 16), (3, 40, 2), CROP])
def test_by_default_any_crop_will_do(sides):
    model, crop = network(), noise(*sides)
    output = model(crop)
    assert output.shape == (1, 3, *sides) and output.isfinite().all()
    padded = model.legal(sides)
    expected = [tuple(side // 2**i for side in padded) for i in range(1, 5)]
    assert [tuple(map_.shape[2:]) for map_ in model.features(crop)] == expected


@torch.inference_mode()
def test_padding_reflects_and_is_cut_off_again():
    model, crop = network(), noise(12, 20, 30)
    padded = functional.pad(crop, (0, 2, 0, 12, 0, 4), mode="reflect")
    assert torch.equal(model(crop), model(padded)[..., :12, :20, :30])


@torch.inference_mode()
def test_a_side_too_short_to_reflect_is_repeated():
    model, crop = network(), noise(1, 16, 16)
    repeated = crop.expand(-1, -1, 16, -1, -1)
    padded = torch.cat([repeated, repeated[..., -1:].expand(-1, -1, -1, -1, 16)], dim=-1)
    assert torch.equal(model(crop), model(padded)[..., :1, :16, :16])


@pytest.mark.parametrize(
    "sides, legal",
    [
        ((16, 160, 160), (16, 160, 160)),
        ((5, 33, 47), (16, 48, 48)),
        ((1, 1, 1), (16, 16, 32)),
        ((16, 16, 16), (16, 16, 32)),
        ((17, 16, 16), (32, 16, 16)),
    ],
)
def test_legal_sizes_are_multiples_of_16_with_more_than_one_voxel_at_the_bottleneck(sides, legal):
    assert network().legal(sides) == legal


@pytest.mark.parametrize(
    "sides, legal",
    [
        ((16, 160, 160), (16, 160, 160)),
        ((16, 64, 64), (16, 64, 80)),
        ((16, 128, 64), (16, 128, 80)),
        ((16, 64, 128), (16, 64, 160)),
        ((80, 16, 16), (80, 16, 16)),
        ((5, 33, 47), (16, 48, 80)),
    ],
)
def test_legal_sizes_of_the_official_preset_split_into_five_chunks_too(sides, legal):
    assert network("official").legal(sides) == legal


@pytest.mark.parametrize("sides", [(5, 33, 47), (16, 64, 64), (15, 160, 160)])
def test_the_official_preset_refuses_what_the_release_cannot_take(sides):
    model = network("official")
    for call in (model, model.features):
        with pytest.raises(ValueError, match="needs sides that are multiples of 16") as caught:
            call(noise(*sides))
        assert str(sides) in str(caught.value) and str(model.legal(sides)) in str(caught.value)


REPAIRS = {"sections": "stride", "mixing": "plain", "interleave": "fifths", "crops": "exact"}


def test_all_four_habits_of_the_release_make_the_official_preset():
    one_by_one, official = network(habits=REPAIRS), network("official")
    assert one_by_one.habits == official.habits
    official.load_state_dict(one_by_one.state_dict())
    with torch.inference_mode():
        assert torch.equal(one_by_one(noise(*OFFICIAL_CROP)), official(noise(*OFFICIAL_CROP)))


@torch.inference_mode()
@pytest.mark.parametrize("habit", ["sections", "mixing", "interleave"])
def test_each_repair_can_be_taken_back_alone_and_changes_what_is_computed(habit):
    default, changed = network(), network(habits={habit: REPAIRS[habit]})
    crop = noise(*OFFICIAL_CROP)
    assert (default(crop) - changed(crop)).abs().max() > 1e-5
    assert changed(noise(5, 33, 47)).shape == (1, 3, 5, 33, 47)


def test_without_padding_other_sides_are_refused_and_legal_ones_give_the_same():
    default, exact = network(), network(habits={"crops": "exact"})
    with torch.inference_mode():
        assert torch.equal(default(noise(*CROP)), exact(noise(*CROP)))
    with pytest.raises(ConfigError, match="model.crops=padded"):
        exact(noise(5, 33, 47))


@torch.inference_mode()
def test_the_official_preset_takes_any_crop_once_padding_is_asked_for():
    model = network("official", habits={"crops": "padded"})
    assert model(noise(16, 64, 64)).shape == (1, 3, 16, 64, 64)


@pytest.mark.parametrize("preset", ["default", "official"])
def test_groups_partition_the_parameters(preset):
    model = network(preset)
    groups = model.groups()
    assert list(groups) == ["mamba", "encoder", "decoder"]
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    assert sum(p.numel() for p in groups["mamba"]) == count(model.stages)


@pytest.mark.parametrize("preset, crop", [("default", CROP), ("official", OFFICIAL_CROP)])
def test_every_parameter_gets_a_gradient(preset, crop):
    model = network(preset).train()
    (model(noise(*crop)) - 0.3).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # A bias before an instance norm has no effect: its gradient is rounding, or 0.
        if not name.endswith("bias"):
            assert parameter.grad.abs().max() > 0, name


@torch.inference_mode()
def test_a_crop_does_not_depend_on_its_batch():
    model = network()
    batch = torch.cat([noise(*CROP), 1 - noise(*CROP)])
    torch.testing.assert_close(model(batch)[1:], model(batch[1:]))


def test_a_model_is_built_by_name_with_changed_options():
    model = build_model("emmamba_atto", preset="official", depths=(1, 1, 1, 1), out_channels=1)
    assert [len(stage) for stage in model.stages] == [1, 1, 1, 1]
    assert model.config.preset == "official" and model.out.out_channels == 1
    with pytest.raises(ConfigError, match="did you mean 'emmamba_huge'"):
        build_model("emmamba_hgue")


KEEP = {"sections": "keep"}


@torch.inference_mode()
@pytest.mark.parametrize("depth", [1, 5])
def test_sections_that_are_kept_are_neither_halved_nor_padded(depth):
    model, crop = network(habits=KEEP, in_channels=3), torch.rand(2, 3, depth, 64, 64)
    output, features = model.both(crop)
    assert output.shape == crop.shape and model.legal((depth, 64, 64)) == (depth, 64, 64)
    expected = [(depth, 64 // 2**i, 64 // 2**i) for i in range(1, 5)]
    assert [tuple(each.shape[2:]) for each in features] == expected
    kept = []
    for module in model.modules():
        module.register_forward_hook(lambda _, inputs, y: kept.append(y) if y is not None else 0)
    model(crop)
    volumes = [y for y in kept if isinstance(y, torch.Tensor) and y.ndim == 5]
    assert len(volumes) > 80 and {y.shape[2] for y in volumes} == {depth}


def test_one_section_costs_a_fraction_of_what_padding_to_sixteen_does():
    with torch.device("meta"):
        padded, kept = (
            build_model("emmamba_tiny", sections=s, in_channels=3) for s in ("mean", "keep")
        )
    found = (
        cost(padded, crop=(1, 64, 64), in_channels=3),
        cost(kept, crop=(1, 64, 64), in_channels=3),
    )
    assert found[0].gmac > 6 * found[1].gmac
    assert found[0].activation_bytes > 8 * found[1].activation_bytes


@pytest.mark.parametrize("depth", [1, 5])
def test_every_parameter_gets_a_gradient_where_sections_are_kept(depth):
    model = network(habits=KEEP, in_channels=3).train()
    crop = torch.rand(1, 3, depth, 64, 64, generator=torch.Generator().manual_seed(1))
    (model(crop) - 0.3).square().mean().backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), name
        if not name.endswith("bias"):  # as above
            assert gradient.abs().max() > 0, name
        if gradient.ndim == 5 and gradient.shape[2] == 3:
            # Above and below a single section there is padding alone: these taps learn nothing.
            before, middle, after = (tap.abs().max() for tap in gradient.unbind(2))
            assert middle > 0 and (min(before, after) > 0 if depth > 1 else before == after == 0)


@torch.inference_mode()
@pytest.mark.parametrize("sides", [(1, 33, 47), (1, 1, 1), (3, 40, 2)])
def test_with_kept_sections_any_crop_will_do_and_only_the_plane_is_padded(sides):
    model, crop = network(habits=KEEP), noise(*sides)
    assert model(crop).shape == (1, 3, *sides)
    legal = model.legal(sides)
    assert legal[0] == sides[0] and {side % 16 for side in legal[1:]} == {0}
    assert all(each.shape[2] == sides[0] for each in model.features(crop))


@pytest.mark.parametrize(
    "habits, sides, legal",
    [
        (KEEP, (1, 64, 64), (1, 64, 64)),
        (KEEP, (1, 16, 16), (1, 16, 32)),  # instance norm needs two voxels at the bottleneck
        (KEEP, (2, 16, 16), (2, 16, 16)),
        ({**KEEP, "interleave": "fifths"}, (1, 64, 64), (1, 64, 80)),
        ({**KEEP, "interleave": "fifths"}, (5, 64, 64), (5, 64, 64)),
    ],
)
@torch.inference_mode()
def test_legal_sizes_where_sections_are_kept(habits, sides, legal):
    model = network(habits=habits)
    assert model.legal(sides) == legal and model.legal(legal) == legal
    assert model(noise(*sides)).shape == (1, 3, *sides)


def test_exact_crops_with_kept_sections_are_refused_for_their_plane_alone():
    model = network(habits={**KEEP, "crops": "exact"})
    model(noise(1, 64, 64))
    with pytest.raises(ConfigError, match="multiples of 16 in the plane; nearest above: .1, 48, 6"):
        model(noise(1, 33, 64))


@torch.inference_mode()
def test_weights_trained_with_halved_sections_start_a_network_that_keeps_them():
    halved, kept = network(), network(habits=KEEP)
    kept.load_state_dict(halved.state_dict())
    assert not torch.equal(kept(noise(*CROP)), halved(noise(*CROP)))
