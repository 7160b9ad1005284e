"""Segment neurons: python scripts/segment.py --model RUN --volume stack.tif --out neurons"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("segment"))
