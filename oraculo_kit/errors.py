"""Everything a user may catch, in one tree.

::

    OraculoError
    ├── SettingsError (ValueError)               a setting is blank, malformed or contradictory
    ├── EnvironmentSourceError (RuntimeError)    the remote environment could not be loaded or applied
    ├── ServicesError (RuntimeError)
    │   ├── ServicesNotStartedError              nobody called start_services() in this process
    │   ├── ServicesFailedError                  the start-up failed; carries pid and original cause
    │   ├── ExtractionHelperError                the processes that read documents cannot be started here
    │   └── WorkerMismatchError                  Dask workers differ from the caller; has a table of what differs
    ├── SourceError (ValueError)                 one document's fault: becomes an outcome, never stops a run
    │   ├── SourceNotFoundError (FileNotFoundError)
    │   ├── SourceUnreadableError (OSError)      permission, I/O error, not a regular file
    │   │   └── NotAFileError                    met in a folder, and no document: it is skipped
    │   ├── EmptySourceError                     nothing to index: no bytes, or no text in it
    │   │   └── ScannedDocumentError             its pages are pictures: it needs text recognition
    │   ├── SourceTooLargeError
    │   ├── UnsupportedFormatError
    │   └── ExtractionError                      corrupt or encrypted, or needs more time or memory than it may
    │       └── WorkerKilledError                a worker process died of it, twice
    ├── QuestionsError (ValueError)              a set of questions or judgements that cannot be understood
    ├── EmbedderError (RuntimeError)
    │   ├── EmbedderNotFoundError (LookupError)  the embedder cannot be loaded
    │   └── EmbeddingError                       the embedder failed, or gave a wrong shape, NaN or zeros
    ├── ChatModelError (RuntimeError)            the chat model cannot be loaded or asked; carries the extracts
    ├── RerankingError (RuntimeError)            the reranker failed, or gave scores that cannot be used
    └── StorageError (RuntimeError)
        ├── StoreNotFoundError (FileNotFoundError)
        ├── StoreClosedError (ValueError)
        ├── StoreReadOnlyError (PermissionError)
        ├── StoreLocationError (OSError)         a network file system, where a store cannot be written
        ├── StoreLockTimeoutError (TimeoutError) another writer holds the store; says who
        ├── StoreUnsupportedError (NotImplementedError)  this engine cannot do it; says what can
        ├── StoreCorruptedError                  names the damaged file and the command that mends it
        ├── StoreFormatError                     written by a newer oraculo_kit, or not a store at all
        ├── EmbedderMismatchError (ValueError)   the store was built with another embedder
        ├── VectorsError (ValueError)            wrong shape, dtype or values of ready-made vectors
        └── QueryError (ValueError)              a search that cannot be understood: its k, its mode, its query
            └── FilterError                      a metadata filter that cannot be understood

Each class also inherits the builtin that a user would catch anyway. Every message says what was got,
what was expected and what to do; every error survives pickling, so that a worker can send it home.
"""

from __future__ import annotations

from typing import Any


class OraculoError(Exception):
    """Base class of every error that oraculo_kit raises on purpose."""

    def __reduce__(self) -> str | tuple[Any, ...]:
        # The builtin's own, but it must be ours: otherwise Dask (tblib) rebuilds an error with `__new__`, which
        # Python refuses for classes that inherit OSError beside another builtin, and the caller waits forever.
        return super().__reduce__()

    def _render_traceback_(self) -> list[str]:
        """Show the message and the user's line in a notebook, not sixty lines of our internals.

        IPython asks for this; a plain interpreter and ``logging`` show the whole traceback.
        """
        import os
        import traceback

        package = os.path.dirname(__file__) + os.sep
        theirs = [
            frame
            for frame in traceback.extract_tb(self.__traceback__)
            if not frame.filename.startswith(package)
        ]
        where = [f"line {frame.lineno}: {frame.line}" for frame in theirs[-1:] if frame.line]
        return [*where, f"{type(self).__name__}: {self}"]


class SettingsError(OraculoError, ValueError):
    """A setting is blank, malformed or contradicts another one."""


class EnvironmentSourceError(OraculoError, RuntimeError):
    """The remote environment could not be loaded, or was refused; nothing of it was applied."""


class ServicesError(OraculoError, RuntimeError):
    """The services of this process cannot be used."""


class ServicesNotStartedError(ServicesError):
    """The services of this process were never started, or were stopped."""


class ServicesFailedError(ServicesError):
    """The start-up of the services failed.

    Parameters
    ----------
    message : str
        What happened, with the original cause and the fix.
    pid : int
        The process whose start-up failed: the kernel's, or a worker's.
    cause_type : str
        Class name of the original error. Within one process the error itself is ``__cause__``; across
        processes only its name and message travel.
    """

    def __init__(self, message: str, pid: int = 0, cause_type: str = "") -> None:
        # All three go to Exception.args: that is what pickle calls the class with.
        super().__init__(message, pid, cause_type)
        self.pid = pid
        self.cause_type = cause_type

    def __str__(self) -> str:
        return str(self.args[0])


class ExtractionHelperError(ServicesError):
    """The processes that read documents cannot be started on this machine: no document's fault."""


class WorkerMismatchError(ServicesError):
    """Workers have another version, other settings or another embedder than the caller; nothing was given to them."""


class SourceError(OraculoError, ValueError):
    """One source cannot be ingested; the others go on."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The path does not exist."""

    # FileNotFoundError and its like print errno fields; ours print the sentence.
    __str__ = Exception.__str__


class SourceUnreadableError(SourceError, OSError):
    """The source exists but cannot be read."""

    __str__ = Exception.__str__


class NotAFileError(SourceUnreadableError):
    """What a folder holds is no file: a FIFO, a socket, a device, a link that leads back to itself."""


class EmptySourceError(SourceError):
    """The source has no bytes, or no text in them."""


class ScannedDocumentError(EmptySourceError):
    """The pages are pictures without text; text recognition (the extra ``ocr``) can read them."""


class SourceTooLargeError(SourceError):
    """The source is larger than the limit for one document."""


class UnsupportedFormatError(SourceError):
    """No loader knows this format."""


class ExtractionError(SourceError):
    """The document is corrupt, encrypted, not what its name says, or past the limits for reading one."""


class WorkerKilledError(ExtractionError):
    """The worker process that ingested the document was killed, and another one after it."""


class QuestionsError(OraculoError, ValueError):
    """A set of questions or judgements cannot be understood; names its file and line."""


class EmbedderError(OraculoError, RuntimeError):
    """The embedder cannot be loaded or used."""


class EmbedderNotFoundError(EmbedderError, LookupError):
    """The embedder's name, package or model cannot be found."""


class EmbeddingError(EmbedderError):
    """The embedder failed on some texts, or returned vectors that must not be stored.

    Attributes
    ----------
    rows : tuple of int
        Places of the texts that have no vector because of it, among those that were given; empty when not known.
    """

    # Set after construction: it travels in the instance's dictionary, and the message stays the only argument.
    rows: tuple[int, ...] = ()


class ChatModelError(OraculoError, RuntimeError):
    """The chat model cannot be loaded, reached or used.

    Attributes
    ----------
    extracts : Answer or None
        What was retrieved for the question, as `ask` answers it without a model.
    partial : str
        What had been written of an answer when it broke off.
    status : int or None
        HTTP status of the provider's answer.
    """

    # Set after construction: they travel in the instance's dictionary, and the message stays the only argument.
    extracts: Any = None
    partial: str = ""
    status: int | None = None


class RerankingError(OraculoError, RuntimeError):
    """The reranker failed, or gave something that is not one score per hit."""


class StorageError(OraculoError, RuntimeError):
    """The store cannot do what was asked; what it holds is untouched."""


class StoreNotFoundError(StorageError, FileNotFoundError):
    """There is no store at this location."""

    __str__ = Exception.__str__


class StoreClosedError(StorageError, ValueError):
    """The store object was closed."""


class StoreReadOnlyError(StorageError, PermissionError):
    """The store was opened read-only, or its files cannot be written."""

    __str__ = Exception.__str__


class StoreLocationError(StorageError, OSError):
    """The folder lies on a network file system, where a store can be read but not written."""

    __str__ = Exception.__str__


class StoreLockTimeoutError(StorageError, TimeoutError):
    """The writer lock was not free within the time limit."""

    __str__ = Exception.__str__


class StoreUnsupportedError(StorageError, NotImplementedError):
    """The engine behind this store cannot do what was asked; the message says what to use instead."""


class StoreCorruptedError(StorageError):
    """A file of the store is damaged, missing or older than it must be; nothing was changed."""


class StoreFormatError(StorageError):
    """The folder is not a store, or was written by a newer version of oraculo_kit."""


class EmbedderMismatchError(StorageError, ValueError):
    """The store was built with another embedder."""


class VectorsError(StorageError, ValueError):
    """Vectors have a wrong shape, dtype or values."""


class QueryError(StorageError, ValueError):
    """A search cannot be understood: its query, k or mode."""


class FilterError(QueryError):
    """A metadata filter cannot be understood."""


__all__ = sorted(
    name
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, OraculoError)
)
