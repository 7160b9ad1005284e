"""States of Neuroglancer: raw images, segmentations and affinities where they lie, in one link."""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenunify_scale.config import DataError
from tokenunify_scale.train.durable import write_durably
from tokenunify_scale.volumes.boxed import Boxed
from tokenunify_scale.volumes.geometry import Triple

HOST = "https://neuroglancer-demo.appspot.com"
STATE = "neuroglancer.json"
PORT = 9000
# By name of the array that predict and segment write; what is drawn first lies below.
WRITTEN: tuple[tuple[str, Literal["affinities", "segmentation"]], ...] = (
    ("affinities", "affinities"),
    ("fragments", "segmentation"),
    ("segmentation", "segmentation"),
)

# Of one channel: where the affinity is low, at a boundary, it is bright.
SHADER = """#uicontrol invlerp normalized(range=[0, {largest:g}])
#uicontrol vec3 color color(default="{colour}")
void main() {{
  emitRGB(color * (1.0 - normalized()));
}}
"""
CHANNELS = (("z", "#ff0000"), ("y", "#00ff00"), ("x", "#0000ff"))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One array, by the URL that the browser reads it from."""

    name: str
    """What the viewer calls it."""

    url: str
    """As Neuroglancer takes it: zarr://https://..., precomputed://gs://..., n5://..."""

    kind: Literal["image", "segmentation", "affinities"] = "image"
    """Affinities are [C, z, y, x]; the first three channels are drawn, each a layer of its own."""

    axes: Literal["zyx", "xyz"] = "zyx"
    """Their order in the array: zyx in what is written here, xyz in precomputed."""

    offset: Triple | None = (0, 0, 0)
    """Its first voxel (z, y, x); None where the source itself says its place and voxel size."""

    largest: float = 1.0
    """The value that stands for an affinity of 1: 255 where they are stored as uint8."""

    visible: bool = True
    """Whether it is shown at first."""


def neuroglancer_state(
    layers: Sequence[Layer],
    *,
    voxel_size: tuple[float, float, float],
    position: tuple[float, float, float],
) -> dict[str, Any]:
    """What Neuroglancer shows, as its own JSON.

    Args:
        layers: at least one, the lowest first.
        voxel_size: (z, y, x) in nm, of all layers that do not say their own.
        position: (z, y, x) in voxels, what is in the middle at first.

    Raises:
        DataError: no layer, or two of one name.

    Source: coordinate spaces and layers as in Neuroglancer's documents, their zarr page among
    them: arrays without a voxel size are told one by equal input and output dimensions.
    """
    names = [layer.name for layer in layers]
    if not names or len(set(names)) < len(names):
        raise DataError(f"layers {names}: expected at least one, each of its own name")
    spaces = {axis: [side * 1e-9, "m"] for axis, side in zip("zyx", voxel_size, strict=True)}
    z, y, x = (float(place) + 0.5 for place in position)
    return {
        # The order of the axes on the screen: x to the right, y down, z through.
        "dimensions": {axis: spaces[axis] for axis in "xyz"},
        "position": [x, y, z],
        "crossSectionScale": min(voxel_size) / voxel_size[2],
        "layers": [drawn for layer in layers for drawn in _layers(layer, spaces)],
        "layout": "4panel",
    }


def neuroglancer_link(
    layers: Sequence[Layer],
    *,
    voxel_size: tuple[float, float, float],
    position: tuple[float, float, float],
    host: str = HOST,
) -> str:
    """A URL that opens ``neuroglancer_state`` at a host; the state is part of it.

    Args:
        layers: at least one, the lowest first.
        voxel_size: (z, y, x) in nm.
        position: (z, y, x) in voxels.
        host: where Neuroglancer runs; it sees the link's state only in the browser.

    Raises:
        DataError: no layer, or two of one name.
    """
    return _link(neuroglancer_state(layers, voxel_size=voxel_size, position=position), host)


def write_state(
    folder: Path, *, base: str = f"http://localhost:{PORT}", raw: str | None = None
) -> str:
    """Write neuroglancer.json beside the Zarr arrays of a folder.

    Args:
        folder: holds segmentation.zarr, fragments.zarr or affinities.zarr.
        base: URL under which the folder is served.
        raw: source of the raw image as Neuroglancer takes it, such as precomputed://gs://...;
            it says its own place and voxel size.

    Returns:
        The link that opens the same.

    Raises:
        DataError: no such array there, or one without a voxel size.
    """
    found = [(word, kind) for word, kind in WRITTEN if (folder / f"{word}.zarr/.zarray").is_file()]
    if not found:
        raise DataError(
            f"{folder} holds none of {', '.join(f'{word}.zarr' for word, _ in WRITTEN)}; "
            "write them with --format zarr"
        )
    layers = [Layer(name="raw", url=raw, offset=None)] if raw else []
    for word, kind in found:
        array = Boxed.open(folder / f"{word}.zarr")
        size = array.voxel_size
        if size is None:
            raise DataError(f"{array.path} has no attribute voxel_size (z, y, x in nm)")
        if kind == "affinities" and (len(array.shape) != 4 or array.shape[0] < 3):
            raise DataError(f"{array.path}: shape {array.shape}; expected [3 or more, D, H, W]")
        z, y, x = (int(o) for o in array.attributes.get("offset", (0, 0, 0)))
        layers.append(
            Layer(
                name=word,
                url=f"zarr://{base.rstrip('/')}/{word}.zarr",
                kind=kind,
                offset=(z, y, x),
                largest=float(array.attributes.get("scale", 1.0)),
                visible=word == "segmentation" or len(found) == 1,
            )
        )
        middle = [o + side / 2 for o, side in zip((z, y, x), array.shape[-3:], strict=True)]
    state = neuroglancer_state(layers, voxel_size=size, position=tuple(middle))
    write_durably(folder / STATE, json.dumps(state, indent=1) + "\n")
    return _link(state, HOST)


def _link(state: Mapping[str, Any], host: str) -> str:
    text = json.dumps(state, separators=(",", ":"))
    return f"{host.rstrip('/')}/#!{urllib.parse.quote(text, safe='')}"


def _layers(layer: Layer, spaces: Mapping[str, list]) -> list[dict[str, Any]]:
    """A layer in Neuroglancer's words; of affinities there are three, which add up to a colour."""
    told = {"source": _source(layer, spaces), "visible": layer.visible}
    if layer.kind == "segmentation":
        alphas = {"selectedAlpha": 0.3, "notSelectedAlpha": 0.15}
        return [{"type": "segmentation", "name": layer.name, **told, **alphas}]
    if layer.kind == "image":
        return [{"type": "image", "name": layer.name, **told}]
    # One layer could draw all channels only if each chunk held all of them.
    return [
        {
            "type": "image",
            "name": f"{layer.name} {axis}",
            **told,
            "localDimensions": {"c'": [1, ""]},
            "localPosition": [channel],
            "blend": "additive",
            "shader": SHADER.format(largest=layer.largest, colour=colour),
        }
        for channel, (axis, colour) in enumerate(CHANNELS)
    ]


def _source(layer: Layer, spaces: Mapping[str, list]) -> str | dict[str, Any]:
    """The URL, with place and voxel size unless the source says them."""
    if layer.offset is None:
        return layer.url
    place = dict(zip("zyx", layer.offset, strict=True))
    axes = {axis: spaces[axis] for axis in layer.axes}
    if layer.kind == "affinities":
        # The mark makes it an axis of the layer alone.
        axes, place = {"c'": [1, ""], **axes}, {"c'": 0, **place}
    matrix = [
        [*(int(row == column) for column in range(len(axes))), place[axis]]
        for row, axis in enumerate(axes)
    ]
    transform = {"matrix": matrix, "inputDimensions": axes, "outputDimensions": axes}
    return {"url": layer.url, "transform": transform}
