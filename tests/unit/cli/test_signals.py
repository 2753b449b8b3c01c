"""Waiting until a signal comes: it wakes who waits, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from mematlas.cli.signals import Interrupts

LONG = 60.0


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_rest(number: signal.Signals) -> None:
    before = descriptors()
    with Interrupts(sys.stderr, between_steps=True) as ending:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), number))
        timer.start()
        began = time.monotonic()
        assert ending.rest(LONG)
        assert time.monotonic() - began < LONG / 2
        timer.join()
    assert ending.exit_code == 128 + number
    assert descriptors() == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_rest_without_a_signal_takes_its_time() -> None:
    with Interrupts(sys.stderr, between_steps=True) as ending:
        began = time.monotonic()
        assert not ending.rest(0.2)
        assert time.monotonic() - began >= 0.2
        assert not ending.rest(0.0)


def test_after_a_signal_nobody_rests_until_it_is_forgotten() -> None:
    with Interrupts(sys.stderr, between_steps=True) as ending:
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        assert ending.rest(LONG)
        assert time.monotonic() - began < LONG / 2
        ending.forget()
        assert not ending.rest(0.01)


def test_a_second_interrupt_ends_a_rest_at_once() -> None:
    with Interrupts(sys.stderr, between_steps=True) as ending:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert ending.is_waiting
