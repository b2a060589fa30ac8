"""Who still lives: told by pid and start, and by nothing that a clock can change."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from oraculo_kit.storage import owners
from oraculo_kit.storage.owners import Owner

linux = pytest.mark.skipif(sys.platform != "linux", reason="ticks since the boot are of Linux")


def owner_of(pid: int) -> Owner:
    started = owners._start(pid)
    assert started is not None
    return replace(Owner.this_process(), pid=pid, started=started)


def test_this_process_and_its_parent_live() -> None:
    assert Owner.this_process().lives()
    assert owner_of(os.getppid()).lives()


def test_a_process_that_ended_is_dead_before_and_after_its_parent_takes_note() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = owner_of(child.pid)
        assert owner.lives()
        child.kill()
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
            assert not owner.lives()
    assert not owner.lives()


def test_another_process_with_the_pid_is_not_the_owner() -> None:
    me = Owner.this_process()
    assert not replace(me, started=me.started + 2).lives()
    assert not replace(me, started=me.started - 2).lives()


def test_a_process_of_another_host_counts_as_alive() -> None:
    assert replace(Owner.this_process(), host="another", pid=2**22 + 1).lives()


@linux
def test_a_clock_that_is_set_forward_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = owner_of(os.getppid())
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + 3600.0)
    assert psutil.Process(parent.pid).create_time() > before + 3600.0  # what a set clock does to it
    assert parent.lives()
    assert Owner.this_process().lives()


@linux
def test_who_lived_before_the_machine_was_booted_again_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    me = Owner.this_process()
    assert me.started.is_integer()
    assert me.started < 2**53  # so that a float, and JSON, hold it exactly
    other = (owners._boot() + 1) % 2**16
    monkeypatch.setattr(owners, "_boot", lambda: other)
    assert not me.lives()


@linux
def test_a_process_may_be_called_anything() -> None:
    named = "import ctypes; ctypes.CDLL(None).prctl(15, b') Z 1 (x', 0, 0, 0); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", named], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert owner_of(child.pid).lives()
        child.kill()
