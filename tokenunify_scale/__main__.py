"""``python -m tokenunify_scale VERB``."""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
