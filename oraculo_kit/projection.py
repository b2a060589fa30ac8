"""The base as points of a plane: its vectors along their two principal axes, computed once and kept in a file.

1. The covariance of the vectors is summed up block by block, in float64; no more than a block is in memory. Beyond
   65,536 vectors of 256 dimensions it is that of every second, third, ... one: the axes hardly turn, and a million
   vectors cost no more.
2. Its two largest eigenvectors are the axes. The component of each that is greatest in size is positive, so that the
   same base always gives the same map and not its mirror image.
3. A second walk puts every chunk on the axes.

The axes, the places and the ids are kept (`oraculo_kit.projection_file`). After a commit the places are computed again,
on the axes that are there: so a map that somebody knows stays as it was while documents come and go, and one walk is
enough. New axes are made when a fifth of the base is new, or another embedder made the vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from oraculo_kit.projection_file import KeptProjection, kept_path, read_kept, write_kept
from oraculo_kit.services import ensure_services

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import VetorStorage

__all__ = ["Projection", "project", "project_base"]

_BLOCK = 4096  # vectors at a time: 4 MB of 256 dimensions
_WORK = 2**32  # multiplications that the covariance takes, at most: 0.3 s
_FEWEST = 8192  # vectors that the axes are computed from, even if that is more work
_NEW_AXES = 0.2  # share of the base that may be new on old axes
_TILE = 64  # rows and columns of a product that OpenBLAS does on one thread
_TILES = 256  # at a time: 4 MB
_EXACT = 1024  # dimensions up to which all eigenvectors are computed, in 0.5 s; 3072 would take 10 s
_ROUNDS = 100  # of the subspace iteration beyond that

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Projection:
    """Every chunk of a base as a point of a plane.

    Attributes
    ----------
    ids : list of str
    xy : numpy.ndarray
        float32, shape (len(ids), 2): along the axis of greatest variance, and along the second one.
    explained : (float, float)
        Share of the variance of all vectors that each axis has, from 0 to 1.
    mean : numpy.ndarray
        float32, shape (dimension,): the point of the vectors' space that lies at (0, 0).
    axes : numpy.ndarray
        float32, shape (2, dimension), rows of length one.
    from_file : bool
        Whether it was computed by an earlier call.
    """

    ids: list[str] = field(repr=False)
    xy: NDArray[np.float32] = field(repr=False)
    explained: tuple[float, float]
    mean: NDArray[np.float32] = field(repr=False)
    axes: NDArray[np.float32] = field(repr=False)
    from_file: bool = False

    def place(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where other vectors of the same embedder lie.

        Parameters
        ----------
        vectors : numpy.ndarray
            float32, shape (n, dimension), rows of length one.

        Returns
        -------
        numpy.ndarray
            float32, shape (n, 2).
        """
        return _placed(vectors, self.mean, self.axes)


def project(storage: VetorStorage, checkpoint: Callable[[], None] | None = None) -> Projection:
    """Return the projection of a store, from its file where that is of the store's present commit.

    Parameters
    ----------
    storage : VetorStorage
    checkpoint : callable, optional
        Called between blocks; it may raise to stop.

    Notes
    -----
    100,000 vectors of 256 dimensions take 1 s the first time, on one core, and 0.05 s from the file; a million 5 s.
    """
    check = checkpoint or _nothing
    stats = storage.stats()
    path = kept_path(storage)
    kept = read_kept(path) if path is not None else None
    if kept is not None and kept.embedder != stats.embedder:
        kept = None
    if kept is not None and kept.commit == stats.commit:
        return Projection(kept.ids, kept.xy, kept.explained, kept.mean, kept.axes, from_file=True)
    if kept is None or abs(stats.chunks - kept.basis) > _NEW_AXES * kept.basis:
        mean, axes, explained = principal_axes(storage, check)
        basis = stats.chunks
    else:
        mean, axes, explained, basis = kept.mean, kept.axes, kept.explained, kept.basis
    ids, xy = _walk(storage, mean, axes, check)
    # Noted with the commit from before the walk: what was written meanwhile makes the file stale, never wrong.
    if path is not None and not getattr(storage, "read_only", False):
        made = KeptProjection(stats.commit, stats.embedder, basis, explained, mean, axes, xy, ids)
        try:
            write_kept(path, made)
        except OSError as exc:
            _log.info("the map is not kept, for %s cannot be written: %s", path, exc)
    return Projection(ids, xy, explained, mean, axes)


def project_base(*keys: str, store: VetorStorage | None = None) -> pd.DataFrame:
    """Return every chunk of the base as a point of a plane, for a plot of your own.

    Parameters
    ----------
    *keys : str
        Metadata keys, or ``"source"``: a column each.
    store : VetorStorage, optional
        By default the base of the services.

    Returns
    -------
    pandas.DataFrame
        With the columns id, x, y (principal components of the vectors, float32) and `keys`.
        ``.attrs["explained"]`` is the share of the variance that x and y have.

    Raises
    ------
    QueryError
        When a key is no text.

    Examples
    --------
    >>> import oraculo_kit as oraculo
    >>> from langchain_core.documents import Document
    >>> _ = oraculo.ingest([Document("nota fiscal", metadata={"source": "a.md", "lang": "pt"})], progress=False)
    >>> points = oraculo.project_base("lang")
    >>> sorted(points.columns), set(points["lang"])
    (['id', 'lang', 'x', 'y'], {'pt'})
    """
    import pandas as pd

    storage = store if store is not None else ensure_services().vetor_storage
    made = project(storage)
    frame = pd.DataFrame({"id": made.ids, "x": made.xy[:, 0], "y": made.xy[:, 1]})
    for key in keys:
        frame[key] = values_of(storage, key, made.ids)
    frame.attrs["explained"] = made.explained
    return frame


def values_of(
    storage: VetorStorage, key: str, ids: list[str], checkpoint: Callable[[], None] | None = None
) -> list[Any]:
    """Return the values of a metadata key for these chunks; None where there is none."""
    check = checkpoint or _nothing
    known: dict[str, Any] = {}
    in_order: list[Any] = []
    is_same = True
    for some, values in storage.iter_values(key):
        check()
        # Nearly always the chunks are those of the map, in the same order: then nothing need be looked up.
        is_same = is_same and some == ids[len(in_order) : len(in_order) + len(some)]
        in_order += values
        known.update(zip(some, values, strict=True))
    if is_same and len(in_order) == len(ids):
        return in_order
    return [known.get(each) for each in ids]


def principal_axes(
    storage: VetorStorage, check: Callable[[], None]
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[float, float]]:
    """Return mean (dimension,), axes (2, dimension) and the shares of the variance."""
    count, shift = 0, None
    total: Any = None
    squares: Any = None
    for vectors in _spread(storage):
        check()
        if shift is None:
            # Around a point near the mean: the sums of squares of all that lies far off would drown the variance.
            shift = vectors.mean(axis=0)
            total = np.zeros(len(shift))
            squares = np.zeros((len(shift), len(shift)))
        near = vectors - shift
        total += near.sum(axis=0, dtype=np.float64)
        squares += _squares(near)
        count += len(near)
    if shift is None:
        dimension = storage.stats().dimension
        return np.zeros(dimension, np.float32), np.zeros((2, dimension), np.float32), (0.0, 0.0)
    middle = total / count
    covariance = squares / count - np.outer(middle, middle)
    values, axes = _largest(covariance)
    variance = max(float(np.trace(covariance)), 0.0)
    # What rounding leaves of vectors that are all equal is no direction.
    scale = float(np.square(shift).sum()) + 1e-12
    shares = [float(value) / variance if variance > 1e-7 * scale and value > 0 else 0.0 for value in values]
    return (shift + middle).astype(np.float32), axes.astype(np.float32), (shares[0], shares[1])


def _spread(storage: VetorStorage) -> Iterator[NDArray[np.float32]]:
    """Yield as many vectors as are enough, evenly spread over the store: the same store gives the same ones."""
    stats = storage.stats()
    enough = max(_FEWEST, _WORK // max(stats.dimension, 1) ** 2)
    step = -(-stats.chunks // enough) or 1
    first, kept = 0, 0
    pieces: list[NDArray[np.float32]] = []
    for _, vectors in storage.iter_vectors(_BLOCK):
        pieces.append(vectors[first::step].copy())
        kept += len(pieces[-1])
        first = (first - len(vectors)) % step
        if kept >= _BLOCK:
            yield np.concatenate(pieces)
            pieces, kept = [], 0
    if kept:
        yield np.concatenate(pieces)


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``rows.T @ rows``, summed up from tiles that are too small for BLAS to share them out to threads.

    Its threads wait for each other after each product. Where other work has the cores, 24 products of 4096 x 256 took
    0.3 to 3 s so, and 0.1 s like this.
    """
    count, dimension = rows.shape
    across = -(-dimension // _TILE)
    total = np.zeros((across, across, _TILE, _TILE), np.float32)
    height = _TILE * max(_TILES // across**2, 1)
    for first in range(0, count, height):
        some = rows[first : first + height]
        padded = np.zeros((-(-len(some) // _TILE) * _TILE, across * _TILE), np.float32)
        padded[: len(some), :dimension] = some
        tiles = np.ascontiguousarray(padded.reshape(-1, _TILE, across, _TILE).transpose(0, 2, 1, 3))
        turned = np.ascontiguousarray(tiles.transpose(0, 1, 3, 2))
        total += np.matmul(turned[:, :, None], tiles[:, None]).sum(axis=0)
    whole = total.transpose(0, 2, 1, 3).reshape(across * _TILE, across * _TILE)
    return whole[:dimension, :dimension]


def _largest(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    dimension = len(covariance)
    if dimension <= _EXACT:
        values, vectors = np.linalg.eigh(covariance)
    else:
        guess = np.random.default_rng(0).standard_normal((dimension, 12))
        for _ in range(_ROUNDS):
            guess = np.linalg.qr(covariance @ guess)[0]
        values, small = np.linalg.eigh(guess.T @ covariance @ guess)
        vectors = guess @ small
    axes = np.zeros((2, dimension))
    shares = np.zeros(2)
    for place in range(min(2, dimension)):
        axis = vectors[:, -1 - place]
        axes[place] = axis * (1.0 if axis[np.abs(axis).argmax()] >= 0 else -1.0)
        shares[place] = values[-1 - place]
    return shares, axes


def _placed(
    vectors: NDArray[np.float32], mean: NDArray[np.float32], axes: NDArray[np.float32]
) -> NDArray[np.float32]:
    # By einsum and not by a product, which would be shared out to threads: see _squares.
    return np.asarray(np.einsum("ij,kj->ik", vectors, axes) - np.einsum("j,kj->k", mean, axes), np.float32)


def _walk(
    storage: VetorStorage, mean: NDArray[np.float32], axes: NDArray[np.float32], check: Callable[[], None]
) -> tuple[list[str], NDArray[np.float32]]:
    ids: list[str] = []
    blocks = [np.zeros((0, 2), np.float32)]
    for some, vectors in storage.iter_vectors(_BLOCK):
        check()
        ids += some
        blocks.append(_placed(vectors, mean, axes))
    return ids, np.concatenate(blocks)


def _nothing() -> None:
    pass
