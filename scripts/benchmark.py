"""Measure the scan or a training step: python scripts/benchmark.py scan --threads 1"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("benchmark"))
