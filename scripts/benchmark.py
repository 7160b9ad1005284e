"""Measure scan, step, loop, loader, objectives or memory: scripts/benchmark.py loader"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("benchmark"))
