"""The colour of an id: the same in every picture and page, and far from that of the next id."""

import numpy as np

from tokenunify_scale.metrics import Matches

APART = 1 << 40  # added to ids of segments, so that segment 7 does not look like object 7


def object_colours(objects: np.ndarray) -> np.ndarray:
    """Colours of ground-truth ids.

    Args:
        objects: [N] integers.

    Returns:
        [N, 3] uint8, RGB.
    """
    return _colours(_mix(objects))


def segment_colours(segments: np.ndarray, *, matches: Matches | None = None) -> np.ndarray:
    """Colours of segments: that of its object for a segment that is the object's largest part.

    Args:
        segments: [N] integers.
        matches: which segment is which object; None gives each segment a colour of its own.

    Returns:
        [N, 3] uint8, RGB.
    """
    keys = _mix(segments.astype(np.uint64) + np.uint64(APART))
    if matches is not None:
        place = np.searchsorted(matches.segments, segments).clip(max=matches.segments.size - 1)
        objects = matches.object_of[place]
        largest = matches.segment_of[np.searchsorted(matches.objects, objects)]
        mutual = (matches.segments[place] == segments) & (largest == segments)
        keys = np.where(mutual, _mix(objects), keys)
    return _colours(keys)


def distinct_colours(count: int) -> np.ndarray:
    """[count, 3] uint8: hues far from those before, for pictures of a few things."""
    place = np.arange(count)
    hue = (0.58 + place * 0.618034) % 1
    return _rgb(hue, np.where(place % 2, 0.55, 0.72), np.where(place % 3 == 2, 0.78, 0.95))


def _mix(ids: np.ndarray) -> np.ndarray:
    """Ids scattered over 64 bits."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


def _colours(keys: np.ndarray) -> np.ndarray:
    """Three 16-bit parts of a key as hue, saturation and value, the last two kept bright."""
    parts = [((keys >> np.uint64(shift)) & np.uint64(0xFFFF)) / 0xFFFF for shift in (48, 32, 16)]
    return _rgb(parts[0], 0.45 + 0.5 * parts[1], 0.75 + 0.25 * parts[2])


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Colours [N, 3] uint8 of hue, saturation and value [N] in [0, 1]."""
    wheel = (hue[:, None] * 6 + np.array([0, 4, 2])) % 6
    strength = np.clip(np.abs(wheel - 3) - 1, 0, 1)
    colours = value[:, None] * (1 - saturation[:, None] * (1 - strength))
    return (colours * 255).round().astype(np.uint8)
