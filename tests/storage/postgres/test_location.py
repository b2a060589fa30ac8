"""URLs of stores in PostgreSQL: read, refused, and shown without passwords."""

from __future__ import annotations

import pickle

import pytest

from oraculo_kit.errors import SettingsError, StorageError
from oraculo_kit.settings import Settings
from oraculo_kit.storage import open_storage
from oraculo_kit.storage.postgres import connection
from oraculo_kit.storage.postgres.location import PostgresLocation, parse_location
from oraculo_kit.storage.postgres.store import PostgresVetorStorage


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://h/b", ("h", 5432, "b", "oraculo", "me", None)),
        ("postgres://u:p%40ss@h:6/b%20c?schema=x", ("h", 6, "b c", "x", "u", "p@ss")),
        ("postgresql://u@/b?host=/run/pg", ("/run/pg", 5432, "b", "oraculo", "u", None)),
        ("postgresql://[::1]:5/b", ("::1", 5, "b", "oraculo", "me", None)),
        ("postgresql://", ("localhost", 5432, "me", "oraculo", "me", None)),
    ],
)
def test_a_url_is_read_as_libpq_reads_it(url: str, expected: tuple[object, ...]) -> None:
    found = parse_location(url, {"USER": "me"})
    assert (found.host, found.port, found.database, found.schema, found.user, found.password) == expected


def test_the_environment_fills_in_what_the_url_leaves_out() -> None:
    environ = {"PGHOST": "h", "PGPORT": "7", "PGUSER": "u", "PGPASSWORD": "secret", "PGDATABASE": "d"}
    found = parse_location("postgresql://", environ)
    assert (found.host, found.port, found.user, found.password, found.database) == (
        "h",
        7,
        "u",
        "secret",
        "d",
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:s3nha@h:port/b", "cannot be understood, expected postgresql://"),
        ("postgresql://u:s3nha@h/b?password=x", "has password, expected none but host"),
        ("postgresql://u:s3nha@h/b?sslmode=maybe", "sslmode is 'maybe'"),
        ("postgresql://u:s3nha@h/b?schema=pg_catalog", "belongs to PostgreSQL itself"),
        (f"postgresql://u:s3nha@h/b?schema={'x' * 70}", "1 to 63 bytes"),
        ("postgresql://u:s3nha#x@h/b", "cannot be understood|a part after #"),
        ("mysql://u:s3nha@h/b", "store URL of scheme 'mysql'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        open_storage(url)
    assert "s3nha" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_passwords_are_not_shown() -> None:
    url = "postgresql://ana:s3nha@h:99/b"
    location = parse_location(url)
    assert "s3nha" not in repr(location) + location.shown
    assert "s3nha" not in repr(Settings.resolve(store=url))
    assert pickle.loads(pickle.dumps(Settings.resolve(store=url))).store == url  # a worker needs it


def test_names_are_quoted_whatever_is_in_them(url: str) -> None:
    odd = (
        url.partition("schema=")[0]
        + "schema="
        + 'x"; DROP SCHEMA public; -- %27%20%C3%A7'.replace(" ", "%20")
        .replace('"', "%22")
        .replace(";", "%3B")
    )
    with PostgresVetorStorage(odd) as store:
        assert store._pool.location.schema == "x\"; DROP SCHEMA public; -- ' ç"
        assert store.verify().ok
        with store._pool.alone() as session:
            session.run('DROP SCHEMA "x""; DROP SCHEMA public; -- \' ç" CASCADE')


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pg8000.native", None)
    with pytest.raises(StorageError, match=r'pip install "oraculo_kit\[postgres\]"'):
        connection.driver()


def test_options_that_do_not_fit_are_refused() -> None:
    for options, message in (
        ({"durability": "none"}, "durability is 'none'"),
        ({"precision": "float16"}, "precision is 'float16', expected 'float32'"),
        ({"lock_timeout": -1}, "lock_timeout is -1"),
    ):
        with pytest.raises(SettingsError, match=message):
            PostgresVetorStorage("postgresql://h/b", **options)  # type: ignore[arg-type]


def test_a_location_is_plain_data() -> None:
    location = PostgresLocation("h", 1, "d", "s", "u", "p")
    assert location == PostgresLocation("h", 1, "d", "s", "u", "p")
