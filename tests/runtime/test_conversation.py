"""What the parent believes of what comes over a container's channel."""

from __future__ import annotations

import os
import signal

import pytest

from sampan.errors import Conflict
from sampan.kernel.clone import clone3
from sampan.runtime.child import Child
from sampan.runtime.conversation import Conversation
from sampan.runtime.gate import Channel
from tests.runtime.containers import spec_of


class _Plain(Conversation):
    __slots__ = ()

    def _state(self) -> bytes:
        return b"{}"

    def _placed(self) -> bytes:
        return b""


def _sleeper() -> tuple[int, int]:
    pid, pidfd = clone3(0)
    if pid == 0:
        signal.pause()
    return pid, pidfd


@pytest.mark.parametrize("word", [b"P%d", b"Q", b"M", b"H"])
def test_nobody_but_a_stage_says_who_the_child_is_cve_2016_9962(word: bytes) -> None:
    """A container with CAP_SYS_PTRACE that speaks for its init must not name another process."""
    victim, victim_fd = _sleeper()
    spec = spec_of("true")
    assert spec.process is not None
    ours, theirs = Channel.pair()
    child = Child(ours, None)
    child.pid, child.pidfd = _sleeper()
    try:
        theirs.send(word % victim if b"%" in word else word)
        talk = _Plain(child, spec, spec.process, staged=False, forks=False, console_socket=None)
        with pytest.raises(Conflict, match="may not say"):
            talk.serve()
        assert child.pid != victim
        child.abort()
        assert os.waitpid(victim, os.WNOHANG) == (0, 0)
    finally:
        theirs.close()
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        os.close(victim_fd)
        child.abort()
