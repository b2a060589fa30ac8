"""Takes what a model returns for some of the texts, piece by piece, and refuses what must not be stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oraculo_kit.embedding.failures import advice, concerns_all
from oraculo_kit.environment.held import short_reason
from oraculo_kit.environment.record import safe_cause
from oraculo_kit.errors import EmbeddingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_FAILURES = 3  # more than so many beyond what succeeded: it is the model that fails, not some batches


class Gathering:
    """The vectors of texts, as far as they are known, and what went wrong with the others.

    Parameters
    ----------
    name : str
        The embedder's name, for messages.
    texts : sequence of str
    dimension : int or None
        Length of a vector, where it is known.

    Attributes
    ----------
    vectors : numpy.ndarray or None
        float32, shape (len(texts), dimension), rows of length one; zeros where there is none (yet).
    dimension : int or None
    """

    def __init__(self, name: str, texts: Sequence[str], dimension: int | None) -> None:
        self.name = name
        self.texts = texts
        self.dimension = dimension
        self.vectors: Vectors | None = None
        self._done: set[int] = set()
        self._wrong: dict[int, str] = {}
        self._first: str | None = None
        self._cause: BaseException | None = None
        self._successes = self._failures = 0
        self._is_over = False

    def put(self, places: Sequence[int], vectors: Vectors) -> None:
        """Keep vectors that were checked before."""
        if not len(places):
            return
        self.begin(int(vectors.shape[1]))
        assert self.vectors is not None
        self.vectors[list(places)] = vectors
        self._done.update(places)

    def begin(self, dimension: int) -> None:
        """Make the matrix when there is none yet: rows of zeros."""
        import numpy as np

        if self.vectors is None:
            self.dimension = dimension
            self.vectors = np.zeros((len(self.texts), dimension), dtype=np.float32)

    def has(self, place: int) -> bool:
        """Tell whether the vector of a text is known."""
        return place in self._done

    def take(self, places: Sequence[int], result: Any) -> list[int]:
        """Check what a model returned for the texts at some places, and keep it.

        Returns
        -------
        list of int
            The places whose vectors were kept, as rows of length one.
        """
        import numpy as np

        from oraculo_kit.vectors import row_lengths, unit_rows, without_direction

        matrix = self._matrix(places, result)
        if matrix is None:
            return []
        lengths = row_lengths(matrix)
        for row in np.flatnonzero(lengths == 0).tolist():
            if not self.texts[places[row]].strip():
                lengths[row] = 1.0  # a blank text has no direction, and stays a row of zeros
        bad = without_direction(lengths)
        wrong = [places[row] for row in bad.tolist()]
        if wrong:
            self._refuse(
                wrong,
                f"returned NaN, infinity or a zero vector for {len(wrong)} of {_texts(len(places))}, the first: "
                f"{self.texts[wrong[0]][:60]!r}. Nothing of them was stored",
            )
            kept = np.setdiff1d(np.arange(len(places)), bad)
            matrix, lengths, places = matrix[kept], lengths[kept], [places[row] for row in kept.tolist()]
        if len(places):
            self.put(places, unit_rows(matrix, lengths))
            self._successes += 1
        return list(places)

    def _matrix(self, places: Sequence[int], result: Any) -> Vectors | None:
        import numpy as np

        try:
            matrix: Vectors = np.asarray(result, dtype=np.float32)
        except (TypeError, ValueError) as exc:
            self._refuse(places, f"returned no matrix of numbers: {short_reason(exc)}", exc)
            return None
        if matrix.ndim != 2 or len(matrix) != len(places) or matrix.shape[1] == 0:
            self._refuse(
                places,
                f"returned shape {matrix.shape} for {len(places)} texts, expected ({len(places)}, dimension): one "
                "vector per text",
            )
            return None
        if self.dimension is not None and matrix.shape[1] != self.dimension:
            self._refuse(
                places,
                f"returned vectors of length {matrix.shape[1]}, expected {self.dimension} as before. Has the model "
                "changed behind its name? Then give the base an embedder of its own",
            )
            return None
        return matrix

    def fail(self, places: Sequence[int], failure: BaseException) -> bool:
        """Note that the model failed on the texts at some places; return whether asking for others makes sense."""
        self._refuse(
            places, f"failed on {_texts(len(places))}: {short_reason(failure)}{advice(failure)}", failure
        )
        if concerns_all(failure):
            self._is_over = True
        return self.goes_on

    @property
    def goes_on(self) -> bool:
        """Whether the faults so far are those of certain texts, not of the model as a whole."""
        return not self._is_over and self._failures <= self._successes + _FAILURES

    def _refuse(self, places: Sequence[int], said: str, cause: BaseException | None = None) -> None:
        self._failures += 1
        self._wrong.update(dict.fromkeys(places, said))
        if self._first is None:
            self._first, self._cause = said, cause

    def finished(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """Return the vectors of all texts.

        Parameters
        ----------
        rows : sequence of sequence of int
            For each text, where the caller had it.

        Raises
        ------
        EmbeddingError
            When a text has none; its ``rows`` are the caller's.
        """
        if self._first is not None:
            raise self._error(rows)
        assert self.vectors is not None
        return self.vectors

    def _error(self, rows: Sequence[Sequence[int]]) -> EmbeddingError:
        concerned = set(self._wrong) if self.goes_on else set(range(len(self.texts))) - self._done
        message = f"embedder {self.name} {self._first}"
        if len(concerned) > sum(said == self._first for said in self._wrong.values()):
            message += f" ({len(concerned)} of {_texts(len(self.texts))} have no vector)"
        error = EmbeddingError(message)
        error.rows = tuple(sorted(row for place in concerned for row in rows[place]))
        # The context of an error travels with it, and may hold a key.
        error.__cause__ = safe_cause(self._cause) if self._cause is not None else None
        return error


def _texts(count: int) -> str:
    return f"{count} text{'s' if count != 1 else ''}"
