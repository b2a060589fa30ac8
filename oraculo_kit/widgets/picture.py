"""A map as a PNG picture, drawn with numpy: points that add up where they are dense, on no background.

256 colours: twelve, each in levels of opacity. So the picture is small, and stands in light and dark pages alike. What is
seen of several classes in one place is the one with most points there.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Points = NDArray[np.float32]
    Codes = NDArray[np.uint8]
    Layer = tuple[NDArray[np.intp], NDArray[np.float32]]

__all__ = ["MARK", "draw_map", "fitted"]

MARK = "#d6246e"
"""The colour of the question and of what leads from it to its neighbours."""

_LEVELS = 16
_MARGIN = 0.94  # of the picture that the points take
_FAINT = 0.3  # opacity of what is not selected, while something is


def fitted(xy: Points) -> Points:
    """Return points moved and scaled so that all lie between -1 and 1, with the same scale for both axes.

    Examples
    --------
    >>> fitted(np.array([[0, 5], [4, 5]], np.float32)).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    if not len(xy):
        return xy
    low, high = xy.min(axis=0), xy.max(axis=0)
    half = float((high - low).max()) / 2 or 1.0
    return np.asarray((xy - (low + high) / 2) / half, np.float32)


def draw_map(
    xy: Points,
    codes: Codes,
    colours: Sequence[str],
    *,
    selected: NDArray[np.intp] | None = None,
    question: Points | None = None,
    neighbours: NDArray[np.intp] | None = None,
    size: tuple[int, int] = (900, 560),
) -> bytes:
    """Return a map as a PNG file.

    Parameters
    ----------
    xy : numpy.ndarray
        float32, shape (n, 2), from -1 to 1 in both directions.
    codes : numpy.ndarray
        uint8, shape (n,): places in `colours`.
    colours : sequence of str
        Up to 14, ``#rrggbb``.
    selected, neighbours : numpy.ndarray, optional
        Places of points that stand out.
    question : numpy.ndarray, optional
        float32, shape (2,); lines lead from it to the neighbours.
    size : (int, int)
        Width and height in pixels.
    """
    width, height = size
    at = _pixels(xy, size)
    radius = float(np.clip(220 / np.sqrt(max(len(xy), 1)), 0.8, 5.0))
    picture = _empty(size)
    if selected is not None and len(selected):
        _put(picture, _splat(at, codes, len(colours), radius, size), opacity=_FAINT)
        _put(picture, _splat(at[selected], codes[selected], len(colours), radius + 0.7, size))
    else:
        _put(picture, _splat(at, codes, len(colours), radius, size))
    mark = len(colours)
    if neighbours is not None and len(neighbours):
        if question is not None:
            lines = _lines(_pixels(question[None], size)[0], at[neighbours])
            _put(picture, _plain(lines, mark, 0.9, size), opacity=0.55)
        _put(picture, _plain(at[neighbours], mark, max(radius, 2.5) + 2.5, size))
        _put(picture, _splat(at[neighbours], codes[neighbours], mark, max(radius, 2.5) + 0.8, size))
    if question is not None:
        _put(picture, _plain(_cross(_pixels(question[None], size)[0]), mark, 2.0, size))
    return _png(picture, [*colours, MARK], width, height)


def _pixels(xy: Points, size: tuple[int, int]) -> NDArray[np.float64]:
    half = min(size) / 2 * _MARGIN
    middle = np.array([size[0] / 2, size[1] / 2])
    found: NDArray[np.float64] = middle + xy.astype(np.float64) * np.array(
        [half * max(size[0] / size[1] * 0.98, 1), -half]
    )
    return found


def _empty(size: tuple[int, int]) -> Layer:
    count = size[0] * size[1]
    return np.zeros(count, np.intp), np.zeros(count, np.float32)


def _put(picture: Layer, layer: Layer, opacity: float = 1.0) -> None:
    colour, alpha = layer
    alpha = alpha * np.float32(opacity)
    over = (alpha > 0.02) & (alpha >= 0.5 * picture[1])
    picture[0][over] = colour[over]
    picture[1][over] = alpha[over]


def _splat(at: NDArray[np.float64], codes: Codes, kinds: int, radius: float, size: tuple[int, int]) -> Layer:
    width, height = size
    columns, rows = np.rint(at).astype(np.intp).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = (codes.astype(np.intp) * height + rows) * width + columns
    counted = np.bincount(places[inside], minlength=kinds * height * width).astype(np.float32)
    layers = _blurred(counted.reshape(kinds, height, width), radius).reshape(kinds, -1)
    density = layers.sum(axis=0)
    there = density[density > 0]
    # The densest two in a hundred places are opaque; without that a single cluster would leave all else invisible.
    full = max(float(np.quantile(there, 0.98)) if len(there) else 1.0, 1.0)
    alpha = np.minimum(np.log1p(density) / np.log1p(full), 1) * 0.92
    return layers.argmax(axis=0), alpha.astype(np.float32)


def _blurred(counted: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Return the counts with each point as a disc."""
    _, height, width = counted.shape
    reach = int(np.ceil(radius))
    total = np.zeros_like(counted)
    kind, row, column = np.nonzero(counted)
    is_sparse = len(kind) < counted.size // 50
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            weight = np.float32(np.clip(radius + 0.5 - np.hypot(down, right), 0, 1))
            if not weight:
                continue
            if is_sparse:
                y, x = row + down, column + right
                on = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                total[kind[on], y[on], x[on]] += weight * counted[kind[on], row[on], column[on]]
            else:
                to = _shifted(down, height), _shifted(right, width)
                of = _shifted(-down, height), _shifted(-right, width)
                total[:, to[0], to[1]] += weight * counted[:, of[0], of[1]]
    return total


def _shifted(by: int, length: int) -> slice:
    return slice(max(by, 0), length + min(by, 0))


def _plain(at: NDArray[np.float64], code: int, radius: float, size: tuple[int, int]) -> Layer:
    colour, alpha = _splat(at, np.zeros(len(at), np.uint8), 1, radius, size)
    return colour + code, np.minimum(alpha * 1.3, 1).astype(np.float32)


def _lines(start: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.float64]:
    parts = [np.linspace(start, end, max(int(np.hypot(*(end - start))), 2)) for end in ends]
    points: NDArray[np.float64] = np.concatenate(parts)
    return points


def _cross(middle: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.arange(-9, 10)[:, None]
    arms: NDArray[np.float64] = np.concatenate([steps * [1.0, 0.0], steps * [0.0, 1.0]])
    return np.asarray(middle + arms, np.float64)


def _png(picture: Layer, colours: Sequence[str], width: int, height: int) -> bytes:
    colour, alpha = picture
    levels = np.rint(alpha * (_LEVELS - 1)).astype(np.intp)
    index = np.where(levels > 0, colour * (_LEVELS - 1) + levels, 0).astype(np.uint8)
    rgb = [bytes.fromhex(each[1:]) for each in colours]
    palette = b"\0\0\0" + b"".join(each * (_LEVELS - 1) for each in rgb)
    opacity = b"\0" + bytes(round(255 * level / (_LEVELS - 1)) for level in range(1, _LEVELS)) * len(rgb)
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = index.reshape(height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"tRNS", opacity),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(kind, content) for kind, content in parts)


def _part(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
