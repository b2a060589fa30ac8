"""What every matrix of vectors must be before it is stored or searched: rows with a direction, of length one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["row_lengths", "unit_rows", "without_direction"]

_UNIT = 1e-6  # a length that is nearer to one than this is one: float32 has no better


def row_lengths(matrix: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the length of each row of a matrix, summed in float64: squares of large float32 values overflow.

    Parameters
    ----------
    matrix : numpy.ndarray
        Floats, shape (n, dimension).

    Returns
    -------
    numpy.ndarray
        float64, shape (n,).

    Examples
    --------
    >>> row_lengths(np.array([[3, 4], [1e30, 0]], np.float32)).tolist()
    [5.0, 1.0000000150474662e+30]
    """
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    return lengths


def without_direction(lengths: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the places of the rows that hold NaN, infinity or only zeros, by their lengths.

    Examples
    --------
    >>> without_direction(np.array([1.0, 0.0, np.nan, np.inf])).tolist()
    [1, 2, 3]
    """
    return np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))


def unit_rows(matrix: NDArray[np.floating[Any]], lengths: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return float32 rows of length one; a float32 matrix whose rows have it is given back as it is.

    Parameters
    ----------
    matrix : numpy.ndarray
        Floats, shape (n, dimension).
    lengths : numpy.ndarray
        `row_lengths` of it, none zero.

    Examples
    --------
    >>> matrix = np.array([[3, 4]], np.float32)
    >>> unit_rows(matrix, row_lengths(matrix)).round(2).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    if np.abs(lengths - 1).max(initial=0.0) < _UNIT:
        return np.ascontiguousarray(matrix, np.float32)
    unit: NDArray[np.float32] = (matrix / lengths[:, None]).astype(np.float32)
    return unit
