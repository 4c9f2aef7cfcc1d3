"""Numbers of processes that are used again: whose end an end is."""

from __future__ import annotations

import os
from typing import Any, cast

from sampan.runtime.supervisor.execs import Execs, _Spare, _Starting
from sampan.runtime.supervisor.loop import Loop
from sampan.runtime.supervisor.messages import Exec
from sampan.runtime.supervisor.protocol import pair

PID = 4_000_000


def test_an_exec_has_not_ended_because_somebody_did_who_had_its_number_before() -> None:
    ended: list[tuple[str, int]] = []
    loop = Loop()
    execs = Execs(
        loop,
        cast("Any", None),
        lambda name, code: ended.append((name, code)),
        cast("Any", None),
    )
    ours, theirs = pair()
    pidfds = [os.pidfd_open(os.getpid()) for _ in range(2)]

    def asked(name: str) -> _Starting:
        spare = _Spare(ours, os.getpid())
        request = Exec(exec_id=name, process={})
        starting = execs._starting[name] = _Starting(request, spare, None, lambda _: None)
        return starting

    def made(name: str, pidfd: int) -> None:
        starting = execs._starting.pop(name)
        execs._add(starting, {"fds": ["pidfd"], "pid": PID}, [pidfd])
        os.close(starting.pidfd)

    try:
        asked("slow")
        execs.reaped(PID, 0)  # an orphan of the container's, say
        asked("second")
        made("second", pidfds[0])
        assert ended == []
        # One that was over before its maker could say so has ended all the same.
        asked("third")
        execs.reaped(PID, 0)
        assert ended == [("second", 0)]
        execs.reaped(PID, 3 << 8)
        made("third", pidfds[1])
        assert ended == [("second", 0), ("third", 3)]
        os.close(execs._starting.pop("slow").pidfd)
    finally:
        ours.close()
        theirs.close()
        loop.close()
