"""Predict affinities: python scripts/predict.py --model RUN --volume stack.tif --out affinities"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("predict"))
