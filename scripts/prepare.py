"""Cut volumes into shards: mpirun -n 8 python scripts/prepare.py --volumes a.h5:raw --out shards"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("prepare"))
