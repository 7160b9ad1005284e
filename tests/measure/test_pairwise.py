import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tokenunify_scale.measure.pairwise import PairwiseHead, attention
from tokenunify_scale.models.perceiver import PerceiverConfig

CONFIG = PerceiverConfig(width=8, latents=2, layers=2, heads=2)


@pytest.fixture
def head():
    torch.manual_seed(0)
    return PairwiseHead(CONFIG, feature_width=5, outputs=6)


def test_every_patch_is_predicted_in_the_range_of_voxels(head):
    found = head(torch.randn(3, 7, 5), visible=4)
    assert found.shape == (3, 7, 6) and 0 < found.min() and found.max() < 1


def test_a_hidden_token_changes_its_own_prediction_alone_and_a_visible_one_all(head):
    tokens = torch.randn(1, 7, 5)
    before = head(tokens, visible=4)
    for changed, reached in ((5, {5}), (2, set(range(7)))):
        other = tokens.clone()
        other[:, changed] += 1
        rows = (head(other, visible=4) != before).any(-1)[0]
        assert set(rows.nonzero().flatten().tolist()) == reached


def test_attention_as_written_down_is_torchs():
    layers = torch.randn(2, 3, 1, 2, 7, 4)
    found = attention(layers, visible=4)
    for layer, (q, k, v) in zip(found, layers, strict=True):
        torch.testing.assert_close(
            layer, scaled_dot_product_attention(q, k[:, :, :4], v[:, :, :4])
        )
