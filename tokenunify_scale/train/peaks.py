"""What a device can compute at best, to say how much of it a training gets."""

import re
from typing import Any, Literal

import torch

Precision = Literal["bf16", "tf32", "fp32"]

# Dense TFLOP/s of bfloat16 on tensor cores (accumulated in float32) and of plain float32, from
# NVIDIA's data sheets and architecture white papers, which print twice as much "with sparsity". The
# first entry wins all of whose words are in the device's name.
PEAKS = (
    ("B200", 2250.0, 80.0),
    ("H200 NVL", 835.0, 60.0),
    ("H200", 989.0, 67.0),
    ("GH200", 989.0, 67.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("A40", 149.7, 37.4),
    ("A30", 165.0, 10.3),
    ("A10", 125.0, 31.2),
    ("L40S", 362.0, 91.6),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 30.3),
    ("RTX A6000", 154.8, 38.7),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.0, 35.6),
)
TF32 = 0.5  # of bfloat16's peak, on all of these
PART = "MIG"  # in the name of a slice of a device, which has a share of the peak


def peak_tflops(device: str, precision: Precision) -> float | None:
    """The dense peak of a device by its name, in TFLOP/s; None if it is not known, as of any CPU.

    Args:
        device: as ``torch.cuda.get_device_name()`` says it.
        precision: of the factors of products.
    """
    words = set(re.split(r"[\s-]+", device))
    for name, half, single in PEAKS:
        if words.issuperset(name.split()) and PART not in words:
            return {"bf16": half, "tf32": TF32 * half, "fp32": single}[precision]
    return None


def precision_of(settings: dict[str, Any]) -> Precision:
    """The precision in which products are taken under DeepSpeed's config.

    Torch takes float32 convolutions in TF32 unless it is told not to: then that is the peak, which
    products in plain float32 are not measured against.

    Args:
        settings: as ``ds_config`` returned them.
    """
    autocast, bf16 = (settings.get(key, {}) for key in ("torch_autocast", "bf16"))
    if bf16.get("enabled") or (autocast.get("enabled") and autocast.get("dtype") == "bfloat16"):
        return "bf16"
    return "tf32" if torch.backends.cudnn.allow_tf32 else "fp32"


def device_peak(device: torch.device, settings: dict[str, Any]) -> float | None:
    """``peak_tflops`` of the device that a rank trains on."""
    if device.type != "cuda":
        return None
    return peak_tflops(torch.cuda.get_device_name(device), precision_of(settings))
