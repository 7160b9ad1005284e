"""Score and draw: python scripts/evaluate.py --segmentation neurons --labels a.h5:labels"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("evaluate"))
