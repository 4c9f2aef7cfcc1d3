"""Running the hooks of ``config.json`` (runtime-spec, config.md, "POSIX-platform Hooks").

A hook is a host program (``startContainer``'s is the container's): its own arguments and
environment, the container's state as JSON on standard input, its output kept for the error message.
It leads a session of its own, so that a time-out ends its children too. posix_spawn(3) is used
because it copies no page tables; the zygote's and the monitor's ignored signals are restored.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
from time import monotonic
from typing import TYPE_CHECKING

from sampan.errors import SampanError
from sampan.kernel.processes import pidfd_open

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.oci.runtime import Hook, Spec

__all__ = ["inheritable_descriptors", "run", "run_poststop", "state_json"]

KEPT_OUTPUT = 2048
"""How many bytes of a failing hook's last output its error quotes."""


def state_json(spec: Spec, container_id: str, bundle: str, status: str, pid: int) -> bytes:
    """The state object (runtime-spec, runtime.md, "State") that hooks and seccomp agents read."""
    state: dict[str, object] = {
        "ociVersion": spec.oci_version,
        "id": container_id,
        "status": status,
        "bundle": bundle,
    }
    if pid:
        state["pid"] = pid
    if spec.annotations:
        state["annotations"] = spec.annotations
    return json.dumps(state).encode()


def run(
    kind: str,
    hooks: Sequence[Hook],
    state: bytes,
    inherited_env: Sequence[str] = (),
    close_first: Sequence[int] = (),
) -> None:
    """Run ``hooks`` in order; the first failure raises SampanError and the rest are not run.

    ``inherited_env`` is what a hook without ``env`` gets; ``close_first`` are descriptors that are
    inheritable and not for hooks.
    """
    for index, hook in enumerate(hooks):
        _run_one(f"hook {kind}[{index}] {hook.path}", hook, state, inherited_env, close_first)


def run_poststop(hooks: Sequence[Hook], state: bytes) -> list[str]:
    """Run every hook of ``poststop``; failures come back as warnings, as the specification says."""
    warnings = []
    close_first = inheritable_descriptors()
    for index, hook in enumerate(hooks):
        try:
            _run_one(f"hook poststop[{index}] {hook.path}", hook, state, (), close_first)
        except SampanError as error:
            warnings.append(error.message)
    return warnings


def _run_one(
    name: str, hook: Hook, state: bytes, inherited_env: Sequence[str], close_first: Sequence[int]
) -> None:
    environment = dict(item.split("=", 1) for item in (hook.env or inherited_env))
    state_read, state_write = os.pipe()
    output_read, output_write = os.pipe()
    try:
        try:
            pid = os.posix_spawn(
                hook.path,
                list(hook.args) or [hook.path],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, state_read, 0),
                    (os.POSIX_SPAWN_DUP2, output_write, 1),
                    (os.POSIX_SPAWN_DUP2, output_write, 2),
                    *((os.POSIX_SPAWN_CLOSE, fd) for fd in close_first),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=_ignored_signals(),
            )
        except OSError as error:
            raise SampanError(f"{name}: cannot be executed: {error.strerror}") from None
        os.close(state_read)
        os.close(output_write)
        feeding, state_read, state_write, output_write = state_write, -1, -1, -1
        output, timed_out = _serve(pid, state, feeding, output_read, hook.timeout)
    finally:
        for fd in (state_read, state_write, output_read, output_write):
            if fd >= 0:
                os.close(fd)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if timed_out:
        raise SampanError(f"{name}: took more than {hook.timeout} s and was killed{_tail(output)}")
    if code > 0:
        raise SampanError(f"{name}: exit status {code}{_tail(output)}")
    if code < 0:
        raise SampanError(f"{name}: killed by signal {-code}{_tail(output)}")


def _serve(
    pid: int, state: bytes, feeding: int, output_read: int, timeout: int | None
) -> tuple[bytes, bool]:
    """Feed and drain the hook until it ends: (its last output, whether its time was up).

    Closes ``feeding``: that is how the hook learns of the end of its input.
    """
    deadline = None if timeout is None else monotonic() + timeout
    os.set_blocking(feeding, False)
    os.set_blocking(output_read, False)
    pidfd = pidfd_open(pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(output_read, select.POLLIN)
    poller.register(feeding, select.POLLOUT)
    output, left = b"", memoryview(state)
    try:
        while True:
            wait = None if deadline is None else max(0.0, deadline - monotonic()) * 1000
            events = dict(poller.poll(wait))
            if not events and deadline is not None and monotonic() >= deadline:
                os.killpg(pid, signal.SIGKILL)
                return output, True
            if output_read in events:
                chunk = _read(output_read)
                output = (output + chunk)[-KEPT_OUTPUT:]
                if not chunk:
                    poller.unregister(output_read)
            if feeding in events:
                left = left[_write(feeding, left) :]
                if not left:
                    poller.unregister(feeding)
                    os.close(feeding)
                    feeding = -1
            if pidfd in events:
                return (output + _read(output_read))[-KEPT_OUTPUT:], False
    finally:
        os.close(pidfd)
        if feeding >= 0:
            os.close(feeding)


def _write(fd: int, data: memoryview) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(data)  # a hook need not read its state


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return b""
        raise


def _tail(output: bytes) -> str:
    text = output.decode(errors="replace").strip()
    return f": {text}" if text else ""


def inheritable_descriptors() -> list[int]:
    """The descriptors above 2 that an executed program would get: not ours, but our caller's."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:
            pass  # the listing's own, closed by now
    return found


def _ignored_signals() -> list[int]:
    """The signals this process ignores (the interpreter ignores SIGPIPE): exec would keep that."""
    return [
        number
        for number in range(1, signal.NSIG)
        if number not in (signal.SIGKILL, signal.SIGSTOP)
        and signal.getsignal(number) == signal.SIG_IGN
    ]
