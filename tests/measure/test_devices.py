import pytest
import torch

from tokenunify_scale.measure.devices import PEAKS, peak_tflops, utilisation


@pytest.mark.parametrize(
    "device, peak",
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A40", 149.7),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Some GPU of tomorrow", None),
    ],
)
def test_a_device_is_known_by_its_name(device, peak):
    assert peak_tflops(device, torch.bfloat16) == peak


def test_no_entry_is_hidden_by_one_before_it():
    names = [set(name.split()) for name, *_ in PEAKS]
    hidden = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a <= b]
    assert hidden == []


def test_utilisation_is_the_achieved_share_of_the_peak():
    text = utilisation(31.2e12, 1.0, device="NVIDIA A100-PCIE-40GB", dtype=torch.bfloat16)
    assert text == "31.20 TFLOP/s, MFU 10.0%"
    text = utilisation(1.95e12, 1.0, device="NVIDIA A100-PCIE-40GB", dtype=torch.float32)
    assert text == "1.95 TFLOP/s, MFU 10.0%"


def test_an_unknown_device_has_no_mfu():
    text = utilisation(1e12, 2.0, device="toy", dtype=torch.float32)
    assert text == "0.50 TFLOP/s, MFU not known for 'toy'"
