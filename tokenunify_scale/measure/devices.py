"""What GPUs can do at best, to say how much of it a computation gets."""

import re

import torch

# Dense TFLOP/s of bfloat16 on tensor cores and of plain float32, from the makers' data sheets; the
# first entry all of whose words are in the device's name wins.
PEAKS = (
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.0, 67.0),
    ("H200", 989.0, 67.0),
    ("GH200", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("L40S", 362.0, 91.6),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.0, 35.6),
)


def peak_tflops(device: str, dtype: torch.dtype) -> float | None:
    """The peak of a device by its name, in TFLOP/s; None if it is not known.

    Args:
        device: as ``torch.cuda.get_device_name()`` says it.
        dtype: bfloat16 or float32.
    """
    words = set(re.split(r"[\s-]+", device))
    for name, half, single in PEAKS:
        if words.issuperset(name.split()):
            return half if dtype == torch.bfloat16 else single
    return None


def utilisation(flop: float, seconds: float, *, device: str, dtype: torch.dtype) -> str:
    """Achieved TFLOP/s and its share of the peak (MFU), as text."""
    achieved = flop / seconds / 1e12
    peak = peak_tflops(device, dtype)
    share = f"{achieved / peak:.1%}" if peak else f"not known for {device!r}"
    return f"{achieved:.2f} TFLOP/s, MFU {share}"
