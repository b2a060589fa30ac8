"""The location of a base in a LangChain vector store: which factory makes the store, and where the catalog lies.

::

    langchain:package.module:factory?catalog=/folder

Without ``catalog`` it is ``<project>/.oraculo/engines/package.module.factory``. Settings complete the location, so that
it means the same in every process, whatever its working folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from oraculo_kit.errors import SettingsError

SCHEME = "langchain"
_EXPECTED = "expected langchain:package.module:factory (ORACULO_STORE)"


@dataclass(frozen=True, slots=True)
class AdaptedLocation:
    """Where a base is; made by `parse_location`.

    Attributes
    ----------
    module, factory : str
        ``factory(embeddings)`` of ``module`` gives the vector store.
    catalog : pathlib.Path
        Folder of the catalog.
    """

    module: str
    factory: str
    catalog: Path

    @property
    def engine(self) -> str:
        """Name of the factory, ``package.module:factory``."""
        return f"{self.module}:{self.factory}"


def is_adapted(location: str) -> bool:
    """Tell whether a location names a LangChain vector store.

    Examples
    --------
    >>> is_adapted("langchain:base.engines:qdrant"), is_adapted("/data/langchain")
    (True, False)
    """
    return location.partition(":")[0].lower() == SCHEME


def parse_location(location: str) -> AdaptedLocation:
    """Read a location that `oraculo_kit.settings` has completed.

    Raises
    ------
    SettingsError
        For one that cannot be understood.

    Examples
    --------
    >>> parse_location("langchain:base.engines:qdrant?catalog=/data/base").engine
    'base.engines:qdrant'
    """
    name, _, query = location.partition(":")[2].partition("?")
    module, _, factory = name.partition(":")
    key, _, catalog = query.partition("=")
    if not factory.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise SettingsError(f"the store is {location.partition('?')[0]!r:.200}, {_EXPECTED}")
    if key != "catalog" or not catalog:
        raise SettingsError(
            f"the store {SCHEME}:{name} has {query!r:.200} after the question mark, expected catalog=/folder or nothing"
        )
    return AdaptedLocation(module, factory, Path(unquote(catalog)))
