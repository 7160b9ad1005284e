"""The worst objects as a table: errors.csv for programs, errors.md for people."""

import csv
from collections.abc import Sequence
from pathlib import Path

from tokenunify_scale.measure.report import table
from tokenunify_scale.metrics import Mistake, Units
from tokenunify_scale.volumes.geometry import Triple

PRINTED = 5  # rows of each kind on the screen
CALLED = {"split": "object", "merge": "segment", "missed": "segment"}


def write_csv(
    path: Path,
    mistakes: Sequence[Mistake],
    places: Sequence[Triple],
    *,
    units: Units,
    voxel_size: tuple[float, float, float] | None,
) -> None:
    """One row a mistake, ids in full.

    Args:
        path: of the file.
        mistakes: as ``worst`` returns them.
        places: a source voxel (z, y, x) in each.
        units: of their contributions.
        voxel_size: (z, y, x) in nm; None leaves the columns in nm empty.
    """
    heads = ["kind", "id", "voxels", f"voi_{units}", "parts", "largest_parts"]
    heads += ["segment", "object", "z", "y", "x", "z_nm", "y_nm", "x_nm"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        for mistake, place in zip(mistakes, places, strict=True):
            parts = " ".join(f"{one}:{voxels}" for one, voxels in mistake.partners)
            there = ["", "", ""]
            if voxel_size:
                there = [f"{a * size:g}" for a, size in zip(place, voxel_size, strict=True)]
            row = [mistake.kind, mistake.id, mistake.voxels, f"{mistake.voi:.9g}", mistake.parts]
            writer.writerow([*row, parts, *mistake.pair, *place, *there])


def write_markdown(
    path: Path, mistakes: Sequence[Mistake], places: Sequence[Triple], *, units: Units
) -> None:
    """A table a kind, the worst first."""
    lines = [
        "# The worst objects",
        "",
        f"VOI in {units}: what an object adds to VOI split, a segment to VOI merge. "
        "Places are source voxels (z, y, x), in the thick of the error.",
    ]
    for kind in dict.fromkeys(mistake.kind for mistake in mistakes):
        heads, *rows = _rows(mistakes, places, kind=kind)
        lines += ["", f"## {kind}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    path.write_text("\n".join(lines) + "\n")


def worst_text(mistakes: Sequence[Mistake], places: Sequence[Triple]) -> str:
    """The first few of each kind as text."""
    kinds = dict.fromkeys(mistake.kind for mistake in mistakes)
    rows = [_rows(mistakes, places, kind=kind)[: PRINTED + 1] for kind in kinds]
    return "\n\n".join(table(heads, found) for heads, *found in rows)


def _rows(mistakes: Sequence[Mistake], places: Sequence[Triple], *, kind: str) -> list[list[str]]:
    """Heads and cells of one kind."""
    owner, partner = CALLED[kind], "objects" if CALLED[kind] == "segment" else "segments"
    rows = [[f"{kind} {owner}", "voxels", "VOI", f"{partner}", "the largest", "z, y, x"]]
    for mistake, place in zip(mistakes, places, strict=True):
        if mistake.kind == kind:
            largest = ", ".join(str(one) for one, _ in mistake.partners[:3])
            cells = [str(mistake.id), str(mistake.voxels), f"{mistake.voi:.4f}"]
            rows.append([*cells, str(mistake.parts), largest, ", ".join(map(str, place))])
    return rows
