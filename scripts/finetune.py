"""Fine-tune: python scripts/finetune.py --init RUN --volume a.h5:raw --labels a.h5:labels"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("finetune"))
