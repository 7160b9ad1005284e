"""The volumes a request names, by path or by data set: open, described, and fit for use."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tokenunify_scale.config import DataError
from tokenunify_scale.data.datasets import Place, locate
from tokenunify_scale.data.gray import check_raw
from tokenunify_scale.volumes.geometry import Box, Triple
from tokenunify_scale.volumes.volume import Volume, open_volume


@dataclass(frozen=True)
class Source:
    """A volume and the part of it that may be used."""

    volume: Volume
    box: Box
    """Within the volume."""
    voxel_size: tuple[float, float, float] | None = None
    """Sides (z, y, x) in nm, from the file or else from what is known of the data set."""
    dataset: str | None = None
    """The data set's name, where it was asked for by name."""

    def facts(self) -> dict:
        """Path, shape, type and voxel size as plain data; and the box, if not all may be used."""
        facts = {
            "path": self.volume.path,
            "shape": [int(side) for side in self.volume.shape],
            "dtype": str(self.volume.dtype),
            "voxel_size": self.voxel_size and [float(side) for side in self.voxel_size],
        }
        if self.dataset is not None:
            facts["dataset"] = self.dataset
        if self.box != Box.of(self.volume.shape):
            facts["box"] = [list(self.box.start), list(self.box.stop)]
        return facts


@contextmanager
def open_sources(
    volumes: Sequence[str],
    *,
    datasets: Sequence[str] = (),
    copies: tuple[str, ...] = (),
    split: str | None = None,
    crop: Triple | None = None,
) -> Iterator[list[Source]]:
    """Open all volumes of a request; only what describes them is read.

    Args:
        volumes: as ``open_volume`` takes them.
        datasets: names, as ``locate`` takes them.
        copies: the user's own copies of the volumes of the data set.
        split: a split of the data sets; None: what pretraining may see.
        crop: size (z, y, x) that has to fit into each; None: any size will do.

    Raises:
        ConfigError: no such data set or split, or it cannot be read in place.
        DataError: a volume is missing, is not raw, is smaller than the crop, or is of another
            shape than the data set.
    """
    places = [place for name in datasets for place in locate(name, source=copies, split=split)]
    with ExitStack() as stack:
        opened = [_source(stack.enter_context(open_volume(spec))) for spec in volumes]
        for place in places:
            opened.append(_source(stack.enter_context(open_volume(place.spec)), place))
        for source in opened:
            check_raw(source.volume)
            if crop is not None and not Box.of(source.box.shape).contains(Box.of(crop)):
                part = "" if source.box == Box.of(source.volume.shape) else "the part to use of "
                raise DataError(
                    f"{part}{source.volume.path} has shape {source.box.shape}: a crop of "
                    f"{tuple(crop)} (zyx voxels) does not fit; choose a smaller --crop"
                )
        yield opened


def _source(volume: Volume, place: Place | None = None) -> Source:
    """A volume, and what is known of it as part of a data set."""
    whole = Box.of(volume.shape)
    if place is None:
        return Source(volume, whole, volume.voxel_size)
    if place.box is not None and place.shape not in (None, whole.shape):
        raise DataError(
            f"{volume.path} has shape {whole.shape}, but {place.name} has {place.shape}, of which "
            f"{place.box.start} to {place.box.stop} is to be used; give another copy with --source"
        )
    if place.box is not None and not whole.contains(place.box):
        raise DataError(
            f"{volume.path} has shape {whole.shape}, but {place.box.start} to {place.box.stop} of "
            f"{place.name} is to be used"
        )
    size = volume.voxel_size or place.voxel_size
    return Source(volume, place.box or whole, size, place.name)
