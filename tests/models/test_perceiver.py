import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenunify_scale.config import ConfigError
from tokenunify_scale.models import build_model
from tokenunify_scale.models.perceiver import (
    CrossLayer,
    PerceiverConfig,
    PerceiverHead,
    feature_width,
    visibility,
)
from tokenunify_scale.tokens.patches import expand_patches

SMALL = {"width": 12, "latents": 5, "layers": 2, "heads": 2}
PATCH, GRID, SIZE, CHANNELS = (2, 2, 2), (2, 3, 2), (2, 6, 4), 3


def head(*, patch=PATCH, channels=1, **options) -> PerceiverHead:
    torch.manual_seed(0)
    config = PerceiverConfig(**{**SMALL, **options})
    return PerceiverHead(config, feature_width=CHANNELS, patch=patch, channels=channels)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prefixes(*lengths: int, grid=GRID) -> torch.Tensor:
    """Hidden patches behind prefixes of these lengths."""
    return torch.arange(math.prod(grid))[None] >= torch.tensor(lengths)[:, None]


def seen_of(*lengths: int) -> torch.Tensor:
    return visibility(prefixes(*lengths), grid=GRID, size=SIZE)


def by_loops(layer: CrossLayer, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The layer on one sample, [L, width] and [S, width], one query and one head at a time."""
    width = x.shape[1] // layer.heads
    queries = layer.query(layer.norm(x))
    keys, values = layer.key_value(layer.norm_context(context)).chunk(2, dim=1)
    gathered = torch.zeros_like(queries)
    for row in range(len(x)):
        for h in range(layer.heads):
            part = slice(h * width, (h + 1) * width)
            scores = [(queries[row, part] * key).sum() / width**0.5 for key in keys[:, part]]
            weights = torch.stack(scores).exp()
            for weight, value in zip(weights / weights.sum(), values[:, part], strict=True):
                gathered[row, part] += weight * value
    x = x + layer.out(gathered)
    return x + layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.norm_forward(x))))


@torch.no_grad()
def test_a_layer_agrees_with_a_loop_over_what_may_be_looked_at():
    torch.manual_seed(0)
    layer, x, context = CrossLayer(12, heads=3), noise(2, 4, 12), noise(2, 7, 12, seed=2)
    seen = noise(2, 7, seed=3) > 0
    found = layer(x, context, seen=seen)
    for sample in range(2):
        expected = by_loops(layer, x[sample], context[sample][seen[sample]])
        torch.testing.assert_close(found[sample], expected)
    torch.testing.assert_close(layer(x, context)[0], by_loops(layer, x[0], context[0]))


@torch.no_grad()
def test_the_head_is_algorithm_3_on_the_visible_cells_alone_and_a_query_a_patch():
    model, features, visible = head(), noise(2, CHANNELS, *SIZE), seen_of(5, 11)
    found = model(features, visible, grid=GRID)
    cells = noise(2, CHANNELS, *SIZE).flatten(2).transpose(1, 2)
    everything = model(features, torch.ones(2, *SIZE), grid=GRID)
    tokens = recorded(model, features)
    for sample in range(2):
        kept = tokens[sample][visible[sample].flatten() > 0]
        assert 0 < len(kept) < len(cells[sample])
        x = model.latents
        for layer in model.layers:
            x = by_loops(layer, x, torch.cat([kept, x]))
        decoded = by_loops(model.decoder, model._queries(GRID, like=features)[sample], x)
        expected = torch.sigmoid(model.voxels(model.norm(decoded)))
        torch.testing.assert_close(found[sample], expected)
    assert not torch.allclose(found, everything)


def recorded(model: PerceiverHead, features: torch.Tensor) -> torch.Tensor:
    """The cells as the first layer is shown them where all are visible."""
    calls = []
    hook = model.layers[0].register_forward_pre_hook(lambda _, args: calls.append(args[1]))
    model(features, torch.ones(len(features), *SIZE), grid=GRID)
    hook.remove()
    return calls[0][:, : -model.config.latents]


@torch.no_grad()
def test_a_cell_is_its_features_and_its_place_and_no_two_places_are_alike():
    model = head()
    cells = recorded(model, torch.ones(1, CHANNELS, *SIZE))[0]
    assert torch.pdist(cells).min() > 0.05
    model.sections.zero_()
    flat = recorded(model, torch.ones(1, CHANNELS, *SIZE))[0].unflatten(0, SIZE)
    assert torch.equal(flat[0], flat[1])  # what is left is the place in the plane


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("other", [-1e4, float("inf"), float("nan")])
@torch.no_grad()
def test_what_is_in_hidden_cells_changes_not_a_bit(other, dtype):
    model, visible = head().to(dtype), seen_of(1, 5, 11)
    features = noise(3, CHANNELS, *SIZE).to(dtype)
    changed = torch.where(visible[:, None] > 0, features, other)
    assert not torch.equal(features, changed)
    found = model(features, visible, grid=GRID)
    assert torch.equal(found, model(changed, visible, grid=GRID))
    nearer = model(features + (visible[:, None] > 0), visible, grid=GRID)
    assert not torch.equal(found, nearer)


def test_a_sample_without_a_visible_cell_is_finite_forth_and_back():
    model, features = head(), noise(2, CHANNELS, *SIZE).requires_grad_()
    found = model(features, seen_of(0, 5), grid=GRID)
    found.square().sum().backward()
    assert found.isfinite().all() and features.grad.isfinite().all()
    assert (features.grad[0] == 0).all() and features.grad[1].any()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch():
    model, features, visible = head(), noise(2, CHANNELS, *SIZE), seen_of(3, 9)
    whole = model(features, visible, grid=GRID)
    torch.testing.assert_close(whole[1:], model(features[1:], visible[1:], grid=GRID))


@pytest.mark.parametrize(
    "grid, size",
    [
        ((1, 1, 1), (1, 1, 1)),
        ((3, 1, 5), (5, 4, 3)),
        ((20, 2, 2), (40, 1, 1)),
        ((1, 9, 9), (1, 5, 5)),
    ],
)
@torch.no_grad()
def test_any_grid_and_any_map_will_do(grid, size):
    hidden = prefixes(1, grid=grid)
    visible = visibility(hidden, grid=grid, size=size)
    found = head(channels=2)(noise(1, CHANNELS, *size), visible, grid=grid)
    assert found.shape == (1, math.prod(grid), 2 * math.prod(PATCH))
    assert 0 < found.min() and found.max() < 1


@torch.no_grad()
def test_a_query_in_the_same_place_is_the_same_in_a_larger_crop():
    model = head()
    small, large = (model._queries(grid, like=noise(1, 1)) for grid in ((1, 2, 2), (2, 3, 4)))
    large = large.unflatten(1, (2, 3, 4))[:, :1, :2, :2].flatten(1, 3)
    torch.testing.assert_close(small, large)


def test_gradients_are_those_of_finite_differences():
    model = head(width=6, latents=2, layers=1, patch=(1, 1, 1)).double()
    features = noise(1, CHANNELS, 1, 2, 2).double().requires_grad_()
    visible = torch.tensor([1.0, 0.0, 0.5, 1.0]).view(1, 1, 2, 2)
    parameters = tuple(model.parameters())
    assert torch.autograd.gradcheck(
        lambda x, *_: model(x, visible, grid=(1, 2, 1)), (features, *parameters), fast_mode=True
    )


def test_under_autocast_the_answer_is_wide_and_near_and_can_be_learned_from():
    model, features, visible = head(), noise(2, CHANNELS, *SIZE), seen_of(3, 9)
    wide = model(features, visible, grid=GRID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given in (features, features.bfloat16()):
            narrow = model(given, visible, grid=GRID)
            assert narrow.dtype == torch.float32
            torch.testing.assert_close(narrow, wide, rtol=0, atol=0.01)
    narrow.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_fresh_head_is_undecided_and_its_latents_differ():
    model = head(width=128, latents=64, heads=4, layers=4, patch=(4, 16, 16))
    calls = []
    model.decoder.register_forward_pre_hook(lambda _, args: calls.append(args[1]))
    with torch.no_grad():
        found = model(noise(1, CHANNELS, 4, 8, 8), torch.ones(1, 4, 8, 8), grid=(2, 4, 4))
    assert (found - 0.5).abs().mean() < 0.1 and found.std() > 0.01
    alike = torch.corrcoef(calls[0][0]).fill_diagonal_(0)
    assert alike.abs().max() < 0.7 and 0.3 < calls[0].std() < 3


def test_a_crop_is_learned_by_heart_from_a_prefix():
    model = head(width=32, latents=8, heads=4)
    features, visible, wanted = noise(2, CHANNELS, *SIZE), seen_of(3, 9), noise(2, 12, 8).sigmoid()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(150):
        error = (model(features, visible, grid=GRID) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.05 * errors[0]


def flops(model: PerceiverHead, *, grid, size) -> int:
    with torch.device("meta"):
        features, visible = torch.empty(1, CHANNELS, *size), torch.ones(1, *size)
        with FlopCounterMode(display=False) as counter:
            model.to("meta")(features, visible, grid=grid)
    return counter.get_total_flops()


def test_decoding_grows_no_faster_than_the_count_of_patches():
    few, many = (flops(head(), grid=(4, n, n), size=(2, 10, 10)) for n in (5, 10))
    assert few < many < 4.2 * few
    more = flops(head(), grid=(4, 20, 20), size=(2, 10, 10))
    assert more - many == pytest.approx(4 * (many - few), rel=1e-6)  # a straight line
    # And gathering grows with the cells: all of them, and never pairs.
    steps = [flops(head(), grid=(4, 5, 5), size=(2, 5, width)) for width in (5, 10, 15)]
    assert steps[2] - steps[1] == steps[1] - steps[0] > 0


def test_what_is_a_parameter_is_used_by_the_module_that_owns_it():
    """Under ZeRO-3 a module's own parameters exist during its own call alone."""
    model, running, used = head(), [], set()
    for module in model.modules():
        module.register_forward_pre_hook(lambda m, _: running.append(m))
        module.register_forward_hook(lambda *_: running.pop() and None)
    own = {}
    for module in model.modules():
        own |= {id(p): (name, module) for name, p in module.named_parameters(recurse=False)}

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            for value in [*args, *(kwargs or {}).values()]:
                if id(value) in own:
                    name, owner = own[id(value)]
                    used.add(id(value))
                    assert owner in running, f"{name} is used outside its module's call"
            return function(*args, **(kwargs or {}))

    with Watch():
        model(noise(1, CHANNELS, *SIZE), seen_of(5), grid=GRID)
    assert used == set(own)


def test_a_state_dict_fits_whatever_the_crop():
    shapes = {name: p.shape for name, p in head().named_parameters()}
    with torch.device("meta"):
        model = head()
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    "grid, size", [((4, 10, 10), (2, 20, 20)), ((2, 3, 2), (4, 6, 4)), ((3, 2, 4), (1, 1, 2))]
)
def test_visibility_is_the_mean_of_the_voxels_of_a_cell(grid, size):
    hidden = noise(3, math.prod(grid)) > 0
    crop = tuple(math.lcm(a, b) for a, b in zip(grid, size, strict=True))
    voxels = expand_patches(~hidden, crop=crop, patch=sides(crop, grid))[:, 0].float()
    cells = torch.nn.functional.avg_pool3d(voxels, sides(crop, size))
    found = visibility(hidden, grid=grid, size=size)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cells)
    assert torch.equal(found > 0, cells > 0)


def sides(whole, parts):
    return tuple(a // b for a, b in zip(whole, parts, strict=True))


def test_a_cell_that_only_touches_a_visible_patch_is_exactly_hidden():
    hidden = torch.tensor([[False, True, True]])
    found = visibility(hidden, grid=(3, 1, 1), size=(21, 1, 1)).flatten()
    assert (found[:7] == 1).all() and (found[7:] == 0).all()


def test_autocast_does_not_narrow_visibility():
    wide = visibility(prefixes(2, 7), grid=GRID, size=(5, 5, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(visibility(prefixes(2, 7), grid=GRID, size=(5, 5, 5)), wide)


def test_cells_beyond_the_crop_are_hidden_and_places_stay_those_of_the_crop():
    # 8 sections padded to 16: the first of two layers of cells covers the crop.
    patch, padded, size = (4, 8, 8), (16, 16, 16), (2, 2, 2)
    seen = visibility(prefixes(4, 8, grid=(2, 2, 2)), grid=(2, 2, 2), size=size, patch=patch,
                      padded=padded)  # fmt: skip
    assert (seen[:, 1] == 0).all() and (seen[0, 0] == 0.5).all() and (seen[1, 0] == 1).all()
    model, features = head(patch=patch), noise(1, CHANNELS, *size)
    with torch.no_grad():
        found = model(features, seen[1:], grid=(2, 2, 2), padded=padded)
        alone = model(features[:, :, :1], seen[1:, :1], grid=(2, 2, 2))
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("stage", [-2, 0, 3, -4])
def test_the_width_of_a_feature_map_is_found(stage):
    model = build_model("emmamba_atto")
    expected = model.features(torch.rand(1, 1, 16, 32, 32))[stage].shape[1]
    assert feature_width(model, stage=stage) == expected


@torch.no_grad()
@pytest.mark.parametrize("patch, cells", [((1, 16, 16), 4), ((1, 8, 8), 1)])
def test_a_photograph_of_one_section_is_decoded_patch_by_patch(patch, cells):
    torch.manual_seed(0)
    model = build_model("emmamba_atto", sections="keep", in_channels=3)
    grid = (1, 48 // patch[1], 64 // patch[2])
    features = model.features(torch.rand(2, 3, 1, 48, 64))[-2]
    place = {"grid": grid, "padded": model.legal((1, 48, 64))}
    hidden = prefixes(2, 5, grid=grid)
    visible = visibility(hidden, size=tuple(features.shape[2:]), patch=patch, **place)
    assert visible.shape == (2, 1, 6, 8) and visible.sum((1, 2, 3)).tolist() == [
        2 * cells,
        5 * cells,
    ]
    config = PerceiverConfig(**SMALL)
    decode = PerceiverHead(config, feature_width=features.shape[1], patch=patch, channels=3)
    found = decode(features, visible, **place)
    assert found.shape == (2, math.prod(grid), 3 * math.prod(patch)) and found.isfinite().all()
    shown = torch.where(visible[:, None] > 0, features, torch.inf)
    assert torch.equal(decode(shown, visible, **place), found)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: feature_width(build_model("emmamba_atto"), stage=4), "is 4, must be in -4..3"),
        (
            lambda: feature_width(build_model("mala", widths=(1, 1, 1, 1)), stage=0),
            "MALA gives no o",
        ),
        (lambda: visibility(prefixes(1), grid=(2, 2, 2), size=SIZE), "12 patches do not fill"),
        (
            lambda: head()(noise(1, CHANNELS, *SIZE), torch.ones(2, *SIZE), grid=GRID),
            r"visible is \[2, 2, 6, 4\], must be \[1, 2, 6, 4\]",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("option", [{"layers": 0}, {"latents": 0}, {"width": 4}, {"heads": 5}])
def test_what_cannot_be_built_is_refused(option):
    with pytest.raises(ValueError, match="must be >= "):
        PerceiverConfig(**{**SMALL, **option})
