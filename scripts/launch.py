"""Launch on all hosts: python scripts/launch.py --hostfile hosts -- pretrain --size huge"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("launch"))
