"""Measure a scan, a training step, the loader or the objectives: scripts/benchmark.py loader"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("benchmark"))
