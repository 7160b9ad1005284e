"""With what settings a model was used when it was scored: what others would repeat."""

import json
from pathlib import Path
from typing import Any

from tokenunify_scale.config import DataError, load_yaml
from tokenunify_scale.train.runlog import read_result

SEGMENTATION = "segmentation"  # the data set of the first threshold; others have _THRESHOLD behind
PREPROCESSOR, POSTPROCESSOR = "preprocessor_config.json", "postprocessor_config.json"
BESIDE = ("min_size", "dissolve")  # settings of segment beside the post-processing's own
TILING = ("tile", "overlap", "context", "tta")


def used(evaluation: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """How volumes were predicted and affinities segmented, as far as the folders are still there.

    Args:
        evaluation: a finished evaluation's folder.

    Returns:
        Tiles, and the voxel size in nm (z, y, x), for ``PREPROCESSOR``; name and options of the
        post-processing, with the threshold that was scored, for ``POSTPROCESSOR``. Each {} where
        nothing is known.
    """
    result, segment, predict = _chain(evaluation)
    before = {"voxel_size": result["voxel_size"]} if result.get("voxel_size") else {}
    if "postprocess" not in segment:
        return before, {}
    after = dict(segment["postprocess"])
    dataset = str(result["segmentation"]).rpartition(":")[2]
    after["threshold"] = _threshold(after.get("threshold"), dataset)
    after |= {key: segment[key] for key in BESIDE if key in segment}
    before |= {key: predict[key] for key in TILING if predict.get(key) is not None}
    return before, {key: value for key, value in after.items() if value is not None}


def scored_model(evaluation: Path) -> Path | None:
    """Whose predictions were segmented and scored; None where that is not known any more."""
    model = _chain(evaluation)[2].get("model")
    return Path(model) if model and Path(model).is_dir() else None


def _chain(evaluation: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Result of an evaluation, and configs of what it scored and of what that was made from."""
    result = read_result(evaluation) or {}
    spec = str(result.get("segmentation", ""))  # a segment folder, or FILE:DATASET in one
    path = Path(spec if Path(spec).is_dir() else spec.rpartition(":")[0])
    segment = _config(path) if spec else {}
    affinities = str(segment.get("affinities", "")).partition(":")[0]
    return result, segment, _config(Path(affinities)) if affinities else {}


def told(folder: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of predict and of segment that an exported folder tells; {} and {} of others.

    Raises:
        DataError: a file of them is damaged.
    """
    before, after = (_read(Path(folder) / name) for name in (PREPROCESSOR, POSTPROCESSOR))
    segment = {key: after.pop(key) for key in BESIDE if key in after}
    return (
        {key: before[key] for key in TILING if key in before},
        {**segment, "postprocess": after} if after else {},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error})") from None


def _config(folder: Path) -> dict[str, Any]:
    """The config.yaml of a run folder, or of the folder of a file in one; {} without any."""
    for each in (folder, folder.parent):
        if (each / "config.yaml").is_file():
            return load_yaml(each / "config.yaml")
    return {}


def _threshold(asked: Any, dataset: str) -> Any:
    """The one of several thresholds that a data set of a segment folder is of."""
    if not isinstance(asked, list):
        return asked
    number = dataset.removeprefix(SEGMENTATION).removeprefix("_")
    return next((each for each in asked if f"{each:g}" == number), asked[0])
