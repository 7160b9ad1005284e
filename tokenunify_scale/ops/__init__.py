"""Sequence operations of Mamba: the selective scan and the causal convolution."""

from tokenunify_scale.ops.causal_conv1d import causal_conv1d
from tokenunify_scale.ops.selective_scan import selective_scan

__all__ = ["causal_conv1d", "selective_scan"]
