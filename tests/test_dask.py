"""Dask: present and future workers of a real cluster have the caller's services."""

from __future__ import annotations

from pathlib import Path

import pytest

from oraculo_kit import errors
from oraculo_kit.workers import read_workers
from tests.conftest import run_script
from tests.test_parallel import HEAD, assert_failed, files, started_lines

__all__ = ["files"]  # the fixture


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_with_its_cause_survives_dasks_way_of_pickling(name: str) -> None:
    from tblib.pickling_support import pickle_exception

    error = getattr(errors, name)("what was wrong")
    error.__cause__ = ValueError("the cause")
    rebuild, arguments = pickle_exception(error)[:2]
    copy = rebuild(*arguments)
    assert (type(copy), str(copy), copy.args) == (type(error), "what was wrong", error.args)
    assert isinstance(copy.__cause__, ValueError)


def test_every_worker_has_the_callers_services_or_says_why_not(files: Path) -> None:
    (files / ".env").write_text("XAI_API_KEY=xai-dotenv\nORACULO_LANG=pt_BR\n")
    found = run_script(
        files,
        HEAD
        + """
def look():
    oraculo.get_services()  # they start when somebody asks for them
    state = services_state()
    return {
        "state": state.state, "fingerprint": state.services.settings.fingerprint, "context": state.context,
        "lines": state.lines, "key": os.environ.get("XAI_API_KEY"),
    }

def batch(task, paths):
    with parallel_services(backend="dask") as settings:
        return Parallel()(delayed(task)(path) for path in paths)

def everywhere(client, count):
    # A worker is counted as soon as it joins; its plugins may run a moment later.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = client.run(lambda: services_state().context)
        if len(found) == count and set(found.values()) == {"dask"}:
            return list(client.run(look).values())
        time.sleep(0.05)
    raise TimeoutError(found)

def main():
    from distributed import Client, LocalCluster

    found = {"no client": failure(lambda: batch(ingest_task, PATHS))}
    warnings.simplefilter("default")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, timeout=20) as client,
    ):
        fingerprint = oraculo.use("base").settings.fingerprint
        rows = batch(my_task, PATHS)
        found["rows"] = [len(rows), sorted({r["store"] for r in rows}), {r["fingerprint"] for r in rows} == {fingerprint},
                         sorted({r["context"] for r in rows}), texts("base")]
        found["two"] = everywhere(client, 2)
        cluster.scale(3)
        client.wait_for_workers(3, timeout=30)
        found["three"] = everywhere(client, 3)
        found["fingerprint"] = fingerprint

        fingerprint = oraculo.use("outra").settings.fingerprint
        outcomes = batch(ingest_task, PATHS)
        found["other"] = [sorted({o.store for o in outcomes}), sorted({o.status for o in outcomes}),
                          {w["fingerprint"] for w in everywhere(client, 3)} == {fingerprint}]

        block(oraculo.use("quebrada").vetor_storage.location)
        found["broken"] = failure(lambda: batch(ingest_task, PATHS))
        # Without our context: the task brings the settings.
        oraculo.use("base")
        found["plain"] = client.submit(ingest_task, PATHS[0]).result(timeout=20).status
    report(found)

if __name__ == "__main__":
    main()
""",
        timeout=120,
    )
    base = str(files / "base")
    assert found["no client"]["type"] == "SettingsError"
    assert (
        "backend 'dask' needs a Dask client and there is none. Make one first" in found["no client"]["text"]
    )
    assert found["rows"] == [6, [base], True, ["dask"], [f"documento número {number}" for number in range(6)]]
    for count in ("two", "three"):
        for worker in found[count]:
            assert worker == {
                "state": "ready",
                "fingerprint": found["fingerprint"],
                "context": "dask",
                "lines": list(started_lines("workers Dask")),
                "key": "xai-dotenv",
            }
    assert (len(found["two"]), len(found["three"])) == (2, 3)
    assert found["other"] == [[str(files / "outra")], ["added"], True]
    assert_failed(found["broken"], "StoreNotFoundError: ", "StoreNotFoundError", elsewhere=True)
    assert found["plain"] == "unchanged"
    records = read_workers(str(files))
    assert len({record.pid for record in records}) == 3
    assert {record.context for record in records} == {"dask"}
    assert {record.threads for record in records} == {1}
