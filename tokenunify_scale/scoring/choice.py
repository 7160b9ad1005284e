"""Choose among the segmentations of a folder on some sections, and score the choice on others."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenunify_scale.config import ConfigError, DataError
from tokenunify_scale.scoring.scoring import Scoring
from tokenunify_scale.train.runlog import read_result

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A scoring of the segmentation that is best elsewhere."""

    scoring: Scoring
    """Of a segment folder that holds segmentations of several thresholds."""
    sections: tuple[int, int]
    """Where they are compared, in source voxels; none of these is scored."""

    def __post_init__(self) -> None:
        """Refuse to choose on what is scored, or without a ground truth.

        Raises:
            ConfigError: which of both.
        """
        scored = self.scoring.sections
        if self.scoring.labels is None:
            raise ConfigError("--choose compares scores: it needs --labels")
        if scored is None or max(scored[0], self.sections[0]) < min(scored[1], self.sections[1]):
            told = "all" if scored is None else f"{scored[0]}:{scored[1]}"
            raise ConfigError(
                f"--choose {self.sections[0]}:{self.sections[1]} must not be among the scored "
                f"--sections, which are {told}: a threshold chosen on them flatters"
            )

    def plan(self) -> dict[str, Any]:
        """What would be scored, and which segmentations there are.

        Raises:
            ConfigError, DataError: as ``Scoring.plan``, of any of the two boxes.
        """
        names = [*self._candidates()]
        for spec in self._candidates().values():
            self._there(spec).plan()
        return {**self.scoring.plan(), "chosen_on": list(self.sections), "candidates": names}

    def run(self, folder: Path) -> dict[str, Any]:
        """Choose and score; pictures and tables are of the choice.

        Returns:
            What result.json holds: that of the scoring, and ``choice``: the variation of
            information of each segmentation on the sections of the choice.
        """
        specs = self._candidates()
        found = {name: self._there(spec).score().voi for name, spec in specs.items()}
        best = min(found, key=found.__getitem__)  # of equal ones, the first that was asked for
        log.info("%s is the best of %d on sections %d:%d", best, len(found), *self.sections)
        result = replace(self.scoring, segmentation=specs[best]).run(folder)
        choice = {"segmentation": best, "sections": list(self.sections), "voi": found}
        return {**result, "segmentation": specs[best], "choice": choice}

    def _there(self, spec: str) -> Scoring:
        """The scoring of one of them, where they are compared; nothing is drawn."""
        plain = {"segmentation": spec, "sections": self.sections, "raw": None, "affinities": None}
        return replace(self.scoring, **plain)

    def _candidates(self) -> dict[str, str]:
        """Every segmentation of the folder by its name.

        Raises:
            DataError: it is no finished segment folder.
        """
        folder = Path(self.scoring.segmentation)
        result = read_result(folder) if folder.is_dir() else None
        if not result or "thresholds" not in result:
            raise DataError(
                f"{folder} is no finished segment folder: --choose takes its segmentations"
            )
        if (folder / "segmentation.h5").exists():
            return {name: f"{folder}/segmentation.h5:{name}" for name in result["thresholds"]}
        return {name: f"{folder}/{name}.zarr" for name in result["thresholds"]}
