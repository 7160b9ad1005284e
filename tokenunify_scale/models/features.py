"""How wide the feature maps of a network are, for what is learned from them."""

from torch import nn

from tokenunify_scale.config import ConfigError


def feature_widths(backbone: nn.Module) -> tuple[int, ...]:
    """Channels of the maps that a network's ``features`` gives, fine to coarse.

    Args:
        backbone: a network with ``widths``, as all of the registry are.

    Raises:
        ConfigError: it does not say them.
    """
    widths = getattr(backbone, "widths", None)
    if widths is None:
        raise ConfigError(
            f"{type(backbone).__name__} has no widths: what is learned from feature maps needs to "
            "know how many channels each has"
        )
    return tuple(widths)


def paired_widths(backbone: nn.Module) -> tuple[int, ...]:
    """The same of a network that gives its output and its features from one pass.

    Args:
        backbone: a network with ``widths`` and ``both``, as all without a margin are.

    Raises:
        ConfigError: it lacks either.
    """
    widths = feature_widths(backbone)
    if not hasattr(backbone, "both"):
        raise ConfigError(
            f"{type(backbone).__name__} gives no output for each voxel beside its features: with "
            "a margin, a network cannot learn what needs both"
        )
    return widths
