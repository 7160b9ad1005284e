import torch

from tokenunify_scale.measure.devices import utilisation


def test_utilisation_is_the_achieved_share_of_the_peak():
    text = utilisation(31.2e12, 1.0, device="NVIDIA A100-PCIE-40GB", dtype=torch.bfloat16)
    assert text == "31.20 TFLOP/s, MFU 10.0%"
    text = utilisation(1.95e12, 1.0, device="NVIDIA A100-PCIE-40GB", dtype=torch.float32)
    assert text == "1.95 TFLOP/s, MFU 10.0%"


def test_an_unknown_device_has_no_mfu():
    text = utilisation(1e12, 2.0, device="toy", dtype=torch.float32)
    assert text == "0.50 TFLOP/s, MFU not known for 'toy'"
