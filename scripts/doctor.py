"""Look at all hosts before training: python scripts/doctor.py --hostfile hosts --out RUN"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("doctor"))
