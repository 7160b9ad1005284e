"""Pretrain one model: deepspeed --hostfile hosts scripts/pretrain.py --size huge"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("pretrain"))
