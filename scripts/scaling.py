"""Plan, run and draw a study: python scripts/scaling.py run cpu_demo --out study"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("scaling"))
