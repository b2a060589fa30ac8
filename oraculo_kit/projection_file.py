"""The file in which a projection is kept: disposable, checked whole before anything in it is believed, never a pickle.

::

    magic (8 bytes)   BLAKE2b-16 of all that follows   length of the header (uint32)   header (JSON)
    mean (d float32)  axes (2 x d)   places (n x 2)    ids (a JSON list)

In the folder of a store of ours it is ``cache/map.bin``. For a store in a server it lies in the project's
``.oraculo/cache``, if the services opened that store: a script that opened it by its address has no project. A file that
is damaged, or of another version, counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oraculo_kit.services import services_state
from oraculo_kit.storage.sharing import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oraculo_kit.storage.base import VetorStorage

__all__ = ["KeptProjection", "kept_path", "read_kept", "write_kept"]

_MAGIC = b"ORCMAP01"
_DIGEST = 16
_LENGTH = struct.Struct("<I")
_START = len(_MAGIC) + _DIGEST


@dataclass(frozen=True)
class KeptProjection:
    """What the file holds.

    Attributes
    ----------
    commit : int
        Of the store, when its vectors were read.
    embedder : str
    basis : int
        How many chunks the axes were computed from.
    explained : (float, float)
    mean, axes, xy : numpy.ndarray
        float32, shapes (d,), (2, d) and (n, 2).
    ids : list of str
    """

    commit: int
    embedder: str
    basis: int
    explained: tuple[float, float]
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    xy: NDArray[np.float32]
    ids: list[str]


def kept_path(storage: VetorStorage) -> Path | None:
    """Return where the projection of a store is kept; None where it is not."""
    folder = Path(storage.location)
    if "://" not in storage.location and folder.is_dir():
        return folder / "cache" / "map.bin"
    services = services_state().services
    if services is None or services.vetor_storage is not storage:
        return None
    name = hashlib.blake2b(storage.location.encode("utf-8", "replace"), digest_size=8).hexdigest()
    return Path(services.settings.project_root) / ".oraculo" / "cache" / f"map-{name}.bin"


def write_kept(path: Path, kept: KeptProjection) -> None:
    """Write the file in one step; of two processes that do, the last one's stays.

    Raises
    ------
    OSError
        When the folder cannot be written to.
    """
    header = json.dumps(
        {
            "commit": kept.commit,
            "embedder": kept.embedder,
            "basis": kept.basis,
            "explained": kept.explained,
            "rows": len(kept.ids),
            "dimension": len(kept.mean),
        }
    ).encode()
    arrays = [np.ascontiguousarray(each, "<f4").tobytes() for each in (kept.mean, kept.axes, kept.xy)]
    content = b"".join([_LENGTH.pack(len(header)), header, *arrays, json.dumps(kept.ids).encode()])
    path.parent.mkdir(parents=True, exist_ok=True)
    share(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.blake2b(content, digest_size=_DIGEST).digest())
            file.write(content)
        share(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_kept(path: Path) -> KeptProjection | None:
    """Read the file; None when there is none that can be used."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = memoryview(content)[_START:]
    digest = hashlib.blake2b(body, digest_size=_DIGEST).digest()
    if content[: len(_MAGIC)] != _MAGIC or content[len(_MAGIC) : _START] != digest:
        return None
    # What has the right digest was written by the function above.
    (length,) = _LENGTH.unpack_from(body)
    at = _LENGTH.size + length
    header = json.loads(bytes(body[_LENGTH.size : at]))
    rows, dimension = header["rows"], header["dimension"]
    arrays = []
    for shape in ((dimension,), (2, dimension), (rows, 2)):
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(body, "<f4", count, at).astype(np.float32).reshape(shape))
        at += 4 * count
    ids = json.loads(bytes(body[at:]))
    first, second = header["explained"]
    mean, axes, xy = arrays
    return KeptProjection(
        header["commit"], header["embedder"], header["basis"], (first, second), mean, axes, xy, ids
    )
