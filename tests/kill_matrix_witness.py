"""scripts/pretrain.py that speaks after each step, and writes down from which crops a rank learns.

    deepspeed ... tests/kill_matrix_witness.py FOLDER --size atto --steps 12 ...

``FOLDER/rank-0.jsonl`` and so on get a line a step, before it is taken, also of steps that are done
again: the step, the positions of its crops in the stream, and a sum of the bytes of each.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from tokenunify_scale.cli import main
from tokenunify_scale.train import runlog
from tokenunify_scale.train.engine import Engine


def writing(step: Callable, *, path: Path, steps: int) -> Callable:
    """``Engine.step``, which first writes its line; ``steps`` are those of the whole run."""

    def witnessed(self: Engine, batches: list, *, progress: float, **how: object) -> object:
        line = {
            "step": round(progress * steps) + 1,
            "positions": [p for batch in batches for p in batch["positions"].tolist()],
            "crops": [crc32(crop.numpy()) for batch in batches for crop in batch["crops"]],
        }
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return step(self, batches, progress=progress, **how)

    return witnessed


def read(path: Path) -> list[tuple[int, dict[int, int]]]:
    """A rank's lines: the step, and the sums of its crops by their positions."""
    texts = path.read_text().splitlines() if path.exists() else []
    lines = [json.loads(text) for text in texts if text.endswith("}")]  # else cut short by a kill
    return [
        (line["step"], dict(zip(line["positions"], line["crops"], strict=True))) for line in lines
    ]


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    folder = Path(words.pop(0))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{os.environ.get('RANK', '0')}.jsonl"
    runlog.LINE_SECONDS = 0.0
    Engine.step = writing(Engine.step, path=path, steps=int(words[words.index("--steps") + 1]))
    raise SystemExit(main("pretrain", words))
