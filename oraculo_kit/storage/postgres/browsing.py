"""What a person browses a base in PostgreSQL by; see `oraculo_kit.storage.browsing`, whose limits these are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from oraculo_kit.storage.browsing import SAMPLE, MetadataKey, checked_value_request
from oraculo_kit.storage.postgres.encoding import read, written

if TYPE_CHECKING:
    from oraculo_kit.storage.postgres.versions import PostgresVersion

_LONGEST = 200
_BLOCKS = 50


def known_keys(version: PostgresVersion) -> list[MetadataKey]:
    """Return every metadata key but ``source``, by name; one that no chunk has any more may be listed."""
    indexed = set(version.indexed_keys())
    rows = version.session.rows("SELECT key, in_chunks, in_sources FROM oraculo_keys ORDER BY key")
    return [
        MetadataKey(read(key), in_chunks, in_sources, read(key) in indexed)
        for key, in_chunks, in_sources in rows
        if key != "source"
    ]


def sampled_values(version: PostgresVersion, key: str, limit: int) -> list[tuple[Any, int]]:
    """Return values of a key and how many chunks of the sample have them, the most frequent first."""
    checked_value_request(key, limit)
    session = version.session
    if key == "source":
        rows = session.rows(
            "SELECT to_jsonb(key)::text, chunk_count FROM (SELECT key, chunk_count FROM oraculo_sources "
            "ORDER BY key LIMIT $1::bigint) s WHERE key <> ''",
            SAMPLE,
        )
    else:
        rows = session.rows(
            "WITH ends AS (SELECT min(number) AS first, greatest((max(number) - min(number) + 1) / $2::bigint, "
            "$3::bigint) AS step FROM oraculo_chunks) SELECT value::text, count(*) FROM (SELECT c.fields -> $1::text AS "
            "value FROM ends CROSS JOIN generate_series(0, $2::bigint - 1) AS b(place) JOIN oraculo_chunks c ON "
            "c.number BETWEEN first + place * step AND first + place * step + $3::bigint - 1) v "
            "WHERE jsonb_typeof(value) IN ('string', 'number', 'boolean') GROUP BY value",
            written(key),
            _BLOCKS,
            SAMPLE // _BLOCKS,
        )
    found = [(json.loads(value), count) for value, count in rows]
    plain = [(read(value) if isinstance(value, str) else value, count) for value, count in found]
    short = [(value, count) for value, count in plain if not isinstance(value, str) or len(value) <= _LONGEST]
    return sorted(short, key=lambda item: (-item[1], str(item[0])))[:limit]
