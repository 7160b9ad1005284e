"""How much of what a GPU can do a computation gets."""

import torch

from tokenunify_scale.train.peaks import peak_tflops


def utilisation(flop: float, seconds: float, *, device: str, dtype: torch.dtype) -> str:
    """Achieved TFLOP/s and its share of the peak (MFU), as text."""
    achieved = flop / seconds / 1e12
    peak = peak_tflops(device, "bf16" if dtype == torch.bfloat16 else "fp32")
    share = f"{achieved / peak:.1%}" if peak else f"not known for {device!r}"
    return f"{achieved:.2f} TFLOP/s, MFU {share}"
