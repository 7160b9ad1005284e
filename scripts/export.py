"""Export for Hugging Face: python scripts/export.py --run RUN --out folder"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("export"))
