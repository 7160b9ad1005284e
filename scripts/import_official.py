"""Import a released checkpoint: python scripts/import_official.py checkpoint-*.pth --out folder"""

from tokenunify_scale.cli import main

if __name__ == "__main__":
    raise SystemExit(main("import-official"))
