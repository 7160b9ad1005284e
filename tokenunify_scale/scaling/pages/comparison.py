"""Our rows beside the paper's tables, and in words how the two were made."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenunify_scale.config import ConfigError, did_you_mean
from tokenunify_scale.scaling.grid.plan import Job
from tokenunify_scale.scaling.pages.collect import Row
from tokenunify_scale.scaling.pages.published import PAPER, facts
from tokenunify_scale.scaling.pages.tables import EMPTY, Form, Table, render
from tokenunify_scale.train.runlog import read_result

NOT_RUN = "not run"
# Of the paper's table that each recipe repeats.
SOURCES = {
    "table1_methods": "Table 1",
    "table2_ac34": "Table 2",
    "table3_objectives": "Table 3",
    "table4_modules": "Table 4",
}
# What a row of ours is called there. Table 3's word "random" is a term of the loss, and ours for no
# pretraining.
INITS = {
    "random": "Random", "mae": "MAE", "byol": "BYOL", "dbmim": "dbMIM", "ms_con_em": "MS-Con-EM",
    "tokenunify": "TokenUnify",
}  # fmt: skip
NETWORKS = {"superhuman": "Superhuman", "mala": "MALA", "pea": "PEA", "unetr": "UNETR"}
TERMS = {
    "random-token": "random", "next-token": "next", "random+next": "random+next",
    "random+next-all": "random+next-all", "tokenunify": "random+next+next-all",
}  # fmt: skip
PARTS = {name: name for name in ("mamba", "encoder", "decoder", "mamba+encoder")}
PARTS |= {"all": "mamba+encoder+decoder", "mamba+encoder+decoder": "mamba+encoder+decoder"}
POSTS = {"multicut": "lmc"}  # our names for the paper's
# Paper: Figure 6 is 100 epochs of fine-tuning, Table 1 is 1200; they are never joined in one curve.
PAPER_LENGTH = {"Table 1": "1200 epochs"}


def compare(
    rows: Iterable[Row],
    table: str,
    *,
    form: Form = "markdown",
    conditions: Sequence[str] = (),
) -> str:
    """Our rows beside the paper's table, means over seeds, with what differs said under it.

    Args:
        rows: of a study made from the recipe.
        table: the recipe's name, or that of the paper's table.
        form: markdown, latex, html or text.
        conditions: sentences on how ours were made, as of ``conditions``.

    Raises:
        ConfigError: no such table.
    """
    return render(comparison(rows, table, conditions=conditions), form)


def comparison(rows: Iterable[Row], table: str, *, conditions: Sequence[str] = ()) -> Table:
    """The table of ``compare``; arguments and errors as there.

    The paper's data sets and post-processings are told apart where an axis of the study names
    them; a study without such an axis is set beside the first of each.
    """
    source = SOURCES.get(table, table)
    lines = [line for line in facts("segmentation") if line["source"] == source]
    if not lines:
        raise ConfigError(f"no table {table!r}: {did_you_mean(table, list(SOURCES))}")
    ours = [_Ours(row, source) for row in rows]
    chosen = {
        key: _named(lines, ours, key) or [lines[0][key]]  # the paper's first, where ours say none
        for key in ("dataset", "post")
    }
    kept = [line for line in lines if all(line[key] in chosen[key] for key in chosen)]
    kept.sort(key=lambda line: [chosen[key].index(line[key]) for key in chosen])
    columns = ("method", "ours VOI", "paper VOI", "ours ARAND", "paper ARAND")
    several = [key for key in chosen if len(chosen[key]) > 1]
    found, rules, taken = [], set(), set()
    for number, line in enumerate(kept):
        if number and any(line[k] != kept[number - 1][k] for k in ("dataset", "post", "group")):
            rules.add(len(found))
        match = [one for one in ours if one.fits(line)]
        taken |= {id(one) for one in match}
        sizes = dict.fromkeys(one.label for one in match) or [""]
        for size in sizes:
            rest = [one.row for one in match if one.label == size]
            name = line["method"] + (f" ({size})" if len(sizes) > 1 else "")
            scores = [_ours(rest, "voi"), line["voi"], _ours(rest, "arand"), line["arand"]]
            found.append((*(line[key] for key in several), name, *scores))
    left = [one for one in ours if id(one) not in taken]
    rules |= {len(found)} if left else set()
    for key in dict.fromkeys((one.where(several), one.name) for one in left):
        rest = [one.row for one in left if (one.where(several), one.name) == key]
        found.append((*key[0], key[1], _ours(rest, "voi"), EMPTY, _ours(rest, "arand"), EMPTY))
    return Table(
        columns=(*several, *columns),
        rows=tuple(found),
        words=frozenset({*several, "method"}),
        rules=frozenset(rules),
        caption=f"{source} of the paper beside ours: VOI in bits and adapted Rand error, "
        "lower is better",
        notes=_notes(source, chosen, conditions=conditions, left=bool(left)),
    )


@dataclass(frozen=True)
class _Ours:
    """A row under the paper's words."""

    row: Row
    source: str

    @property
    def methods(self) -> set[str]:
        """What the paper calls this row; empty where it has nothing like it."""
        size = self.row.size.lower()
        if self.source == "Table 3":
            return {TERMS[self.row.init]} if self.row.init in TERMS else set()
        if self.source == "Table 4":
            loaded = self.row.init == "tokenunify"
            return {PARTS[v] for v in self.row.axes.values() if v in PARTS} if loaded else set()
        if size in NETWORKS:
            return {NETWORKS[size]} if self.row.init == "random" else set()
        named = {INITS[self.row.init]} if self.row.init in INITS else set()
        return named | ({"EMmamba"} if self.row.init == "random" else set())

    @property
    def label(self) -> str:
        """Size and such axes as tell two rows of one method apart."""
        known = {*PARTS} if self.source == "Table 4" else set()
        values = [v for v in self.row.axes.values() if v not in known and not _is_block(v)]
        return " ".join([self.row.size, *values])

    @property
    def name(self) -> str:
        """Where the paper has no word."""
        words = [self.row.size, self.row.init, *self.row.axes.values()]
        return " ".join(word for word in words if not _is_block(word))

    def named(self, key: str) -> str | None:
        """The paper's word for this row's data set or post-processing, if an axis says it."""
        values = [POSTS.get(value, value) for value in self.row.axes.values()]
        return next((value for value in values if value in _known(key)), None)

    def where(self, keys: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.named(key) or EMPTY for key in keys)

    def fits(self, line: dict[str, str]) -> bool:
        blocks = all(self.named(key) in (None, line[key]) for key in ("dataset", "post"))
        return blocks and line["method"] in self.methods


@cache
def _known(key: str) -> frozenset[str]:
    return frozenset(line[key] for line in facts("segmentation"))


def _is_block(value: str) -> bool:
    return any(POSTS.get(value, value) in _known(key) for key in ("dataset", "post"))


def _named(lines: Sequence[dict[str, str]], ours: Sequence[_Ours], key: str) -> list[str]:
    """The paper's values of ``key`` that an axis of ours names, in the paper's order."""
    said = {one.named(key) for one in ours}
    return [value for value in dict.fromkeys(line[key] for line in lines) if value in said]


def _ours(rows: Sequence[Row], score: str) -> str:
    """Mean +- sd over seeds, or that there is no result."""
    values = [value for row in rows if (value := getattr(row, score)) is not None]
    if not values:
        return NOT_RUN
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.fmean(values):.4f} +- {statistics.stdev(values):.4f} (n = {len(values)})"


def _notes(
    source: str, chosen: dict[str, list[str]], *, conditions: Sequence[str], left: bool
) -> tuple[str, ...]:
    where = f"{' and '.join(chosen['dataset'])}, {' and '.join(chosen['post'])}"
    length = PAPER_LENGTH.get(source)
    paper = f"Paper: {PAPER}, {source}; {where}{f'; {length}' if length else ''}."
    ours = list(conditions) or ["Ours: how it was made is not given here."]
    warning = "Where data or steps differ, the columns show an order at most, not a difference."
    extra = ["Rows without a value of the paper's are ours alone."] if left else []
    return (paper, *ours, warning, *extra)


def conditions(jobs: Iterable[Job]) -> tuple[str, ...]:
    """How a study's rows were made, in sentences, from the result.json of its finished runs.

    Args:
        jobs: the plan of the study.
    """
    said: dict[str, dict[str, Any]] = {"pretrain": {}, "finetune": {}, "evaluate": {}}
    for job in jobs:
        result = read_result(job.folder) if job.verb in said else None
        if result is not None:
            said[job.verb][_sentence(job.verb, result)] = None
    words = {"pretrain": "Ours, pretraining", "finetune": "Ours, fine-tuning"}
    words["evaluate"] = "Ours, scored on"
    return tuple(
        f"{words[verb]}: {'; or '.join(sentences)}."
        for verb, sentences in said.items()
        if sentences
    )


def _sentence(verb: str, result: dict[str, Any]) -> str:
    """What a run was made from and how long, in words."""
    if verb == "evaluate":
        box = result.get("start"), result.get("stop")
        part = "" if None in box else f", voxels {box[0]} to {box[1]}"
        return f"{_file(result.get('labels'))}{part}"
    data = result.get("shards") if verb == "pretrain" else result.get("volume")
    crops = f", {result['crops_seen']:,} crops in all" if "crops_seen" in result else ""
    return f"{result.get('steps', 0):,} steps{crops}, from {_file(data)}"


def _file(name: Any) -> str:
    """The last parts of one or several paths."""
    names = name if isinstance(name, list) else [name]
    return ", ".join("/".join(str(each).split("/")[-2:]) for each in names)
