"""Image sizes as users and JSON give them."""

from zoo_core.arguments import shown
from zoo_core.errors import ConfigError

Size = tuple[int, int]
ImageSize = int | Size | None
LONGEST_SIDE, LARGEST_AREA = 2**16, 2**27  # pixels: strangers' settings are read too


def checked_size(size: object) -> tuple[int, int] | None:
    """(H, W) in pixels, from a pair as Python or JSON give it or from the side of a square.

    Raises:
        ConfigError: it is something else; None is allowed and stays None.
    """
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_length, pair)):
        raise ConfigError(f"image_size: must be (height, width) in pixels, got {shown(size)}")
    if max(pair) > LONGEST_SIDE or pair[0] * pair[1] > LARGEST_AREA:
        limit = f"at most {LONGEST_SIDE} to a side and {LARGEST_AREA} pixels"
        raise ConfigError(f"image_size: must be {limit}, got {shown(size)}")
    return pair[0], pair[1]


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
