"""Axes of a grid beyond size, initialisation and seed: any setting of any stage."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Changes = dict[str, dict[str, Any]]  # stage: settings that it has beyond those of all
NAME = r"[\w+-]+"  # of what names folders, columns and curves


def read_axes(
    axes: Mapping[str, Any], *, stages: Sequence[str], taken: Sequence[str]
) -> dict[str, dict[str, Changes]]:
    """Axes as a recipe writes them, by name, each value under the label that its folders have.

    An axis is a setting with its values, ``finetune.optim.lr: [1e-3, 5e-3]``, called by its last
    word, or named values of anything, ``parts: {mamba: {finetune: {train: [mamba]}}}``.

    Args:
        axes: of the recipe.
        stages: whose settings may be changed.
        taken: names that an axis cannot have.

    Raises:
        ValueError: a name or label that cannot be, one that comes twice, or no values.
    """
    found: dict[str, dict[str, Changes]] = {}
    for written, values in axes.items():
        path = str(written).split(".")
        name, where = path[-1], f"axes.{written}"
        if name in taken or name in found or not re.fullmatch(NAME, name, re.ASCII):
            raise ValueError(
                f"{where}: names are letters, digits, _, + and -; taken: "
                f"{', '.join((*taken, *found))}"
            )
        if len(path) > 1:
            labelled = _values(path, values, stages=stages, where=where)
        elif isinstance(values, Mapping) and values:
            labelled = {str(label): changes for label, changes in values.items()}
        else:
            raise ValueError(f"{where} is {values!r}, expected {{VALUE: {{STAGE: settings}}}}")
        for label, changes in labelled.items():
            if not re.fullmatch(r"[\w+.-]+", label, re.ASCII) or set(label) <= {"."}:
                raise ValueError(f"{where}.{label}: labels are letters, digits, _, +, . and -")
            if not isinstance(changes, Mapping) or not {*changes} <= {*stages}:
                raise ValueError(
                    f"{where}.{label} is {changes!r}, expected settings of some of {[*stages]}"
                )
            for stage, settings in changes.items():
                if not isinstance(settings, Mapping):
                    raise ValueError(f"{where}.{label}.{stage} is {settings!r}, expected settings")
        found[name] = labelled
    return found


def _values(
    path: Sequence[str], values: Any, *, stages: Sequence[str], where: str
) -> dict[str, Changes]:
    """An axis of one setting: its values under labels made of them."""
    if path[0] not in stages or not isinstance(values, list) or not values:
        raise ValueError(f"{where} is {values!r}, expected STAGE.SETTING: [VALUE, ...]")
    labelled: dict[str, Changes] = {}
    for value in values:
        text = value if isinstance(value, str) else re.sub(r"[\[\]{}' ]", "", str(value))
        label = re.sub(r"[^\w+.-]+", "_", text, flags=re.ASCII)
        if label in labelled:
            raise ValueError(f"{where} has {value!r} twice")
        changes: Any = value
        for key in reversed(path):
            changes = {key: changes}
        labelled[label] = changes
    return labelled


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changed, key by key at every depth."""
    result = dict(settings)
    for key, value in changes.items():
        old = result.get(key)
        deep = isinstance(value, Mapping) and isinstance(old, Mapping)
        result[key] = merged(old, value) if deep else value
    return result
