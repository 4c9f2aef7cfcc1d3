"""Doing something on a thread of its own, to its end, whatever is raised here meanwhile.

A signal's handler written in Python may raise (KeyboardInterrupt is the usual one), and it does so
in the main thread, between any two instructions there: after a descriptor was closed and before
that is noted, after a count went up and before what counts it down. No order of instructions is
safe from that. The interpreter interrupts no other thread, though (signal, "Signals and threads"),
so what must not be left half done is done on one.
"""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["apart", "is_interruptible"]

T = TypeVar("T")


def is_interruptible() -> bool:
    """Whether this is the thread that handlers of signals run in."""
    return threading.get_ident() == threading.main_thread().ident


def apart(call: Callable[[], T]) -> tuple[T | None, BaseException | None, BaseException | None]:
    """(what ``call`` returned, what it raised, what was raised here while it ran)."""
    # A thread of the lowest level: one of ``threading`` takes an interruptible while to begin.
    to_do = [call]
    outcome: list[tuple[T | None, BaseException | None]] = []
    done = _thread.allocate_lock()
    done.acquire()

    def perform() -> None:
        try:
            mine = to_do.pop()
        except IndexError:
            return  # Begun twice: the interrupt came when the first was, and that was not noted.
        try:
            outcome.append((mine(), None))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that asked
            outcome.append((None, error))
        finally:
            done.release()

    interrupt: BaseException | None = None
    while not outcome:
        try:
            if to_do:
                try:
                    _thread.start_new_thread(perform, ())
                except RuntimeError:
                    perform()  # The interpreter is about to end, and starts no thread.
            done.acquire()
        except BaseException as raised:  # noqa: BLE001 - the caller raises it
            # Without its way to here, which would keep all of this alive.
            interrupt = raised.with_traceback(None)
    return (*outcome.pop(), interrupt)
