import pytest
import torch

from tokenunify_scale.train.peaks import PEAKS, device_peak, peak_tflops, precision_of


@pytest.mark.parametrize(
    "device, peak",
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Some GPU of tomorrow", None),
    ],
)
def test_a_device_is_known_by_its_name(device, peak):
    assert peak_tflops(device, "bf16") == peak


def test_tf32_has_half_the_peak_of_bf16_and_plain_fp32_its_own():
    assert peak_tflops("NVIDIA A100-PCIE-40GB", "tf32") == 156.0
    assert peak_tflops("NVIDIA A100-PCIE-40GB", "fp32") == 19.5


def test_no_entry_is_hidden_by_one_before_it():
    names = [set(name.split()) for name, *_ in PEAKS]
    assert not [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a <= b]


def test_the_precision_is_that_of_deepspeeds_config(monkeypatch):
    assert precision_of({"bf16": {"enabled": True}}) == "bf16"
    assert precision_of({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}) == "bf16"
    for allowed, precision in ((True, "tf32"), (False, "fp32")):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert precision_of({"torch_autocast": {"enabled": False}}) == precision


def test_a_cpu_has_no_known_peak(monkeypatch):
    assert device_peak(torch.device("cpu"), {}) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert device_peak(torch.device("cuda", 0), {"bf16": {"enabled": True}}) == 989.0
