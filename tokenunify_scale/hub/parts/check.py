"""Compare an exported folder with what its source computed; run alone, as ``python -c``.

Words: the folder, and a file of torch's with crops, prediction and features. Prints one JSON
object.
"""

import json
import resource
import sys

import torch
from transformers import AutoModel

folder, path = sys.argv[1:]
known = torch.load(path, weights_only=True)
model, info = AutoModel.from_pretrained(
    folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True
)
model.eval()
with torch.inference_mode():
    found = model(known["crops"])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far two maps are apart, as a share of their length."""
    return float((one - other).norm() / other.norm())


features = zip(found.hidden_states, known["features"], strict=True)
told = {
    "largest_difference": float((found.prediction - known["prediction"]).abs().max()),
    "prediction_apart": apart(found.prediction, known["prediction"]),
    "features_apart": max(apart(one, other) for one, other in features),
    "maps": 1 + len(known["features"]),
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "package_loaded": "tokenunify_scale" in sys.modules,
    "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}
print(json.dumps(told))
