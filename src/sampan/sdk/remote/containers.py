"""A daemon's containers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

import msgspec

from sampan.errors import SampanError
from sampan.sdk.options import CreateOptions, create_body
from sampan.sdk.remote.stream import AsyncStream, Stream
from sampan.sdk.remote.values import ContainerSummary, Ended, ExecResult, ExecState, Made
from sampan.sdk.remote.wire import Answer, Filters, Frames, Wire, filter_query, name_in_path
from sampan.sdk.steps import Awaiting, Blocking, Steps, operation

if TYPE_CHECKING:
    from sampan.sdk.result import Chunk

__all__ = ["AsyncContainer", "AsyncContainers", "Container", "Containers"]

Command = Iterable[str | os.PathLike[str]]


class _Container:
    """A container a daemon keeps. It stays until it is removed."""

    __slots__ = ("_wire", "id", "warnings")

    def __init__(self, wire: Wire, identity: str, warnings: tuple[str, ...] = ()) -> None:
        self._wire = wire
        self.id = identity
        self.warnings = warnings

    def __repr__(self) -> str:
        return f"<container {self.id[:12]}>"

    def _post(self, action: str, **query: object) -> Steps[None]:
        yield from self._wire.call("POST", f"/containers/{self.id}/{action}", query)

    @operation
    def start(self) -> Steps[None]:
        """Start it. No error if it runs. Raises CommandNotFound's cause as InvalidArgument."""
        return self._post("start")

    @operation
    def stop(self, timeout: int | None = None, signal: str = "") -> Steps[None]:
        """Ask it to end, and kill it after ``timeout`` seconds. No error if it does not run."""
        return self._post("stop", t=timeout, signal=signal)

    @operation
    def restart(self, timeout: int | None = None) -> Steps[None]:
        """Stop it, and start it again."""
        return self._post("restart", t=timeout)

    @operation
    def kill(self, signal: str = "SIGKILL") -> Steps[None]:
        """Send a signal to its first process. Raises Conflict when it does not run."""
        return self._post("kill", signal=signal)

    @operation
    def pause(self) -> Steps[None]:
        """Freeze its processes."""
        return self._post("pause")

    @operation
    def unpause(self) -> Steps[None]:
        """Let them go on."""
        return self._post("unpause")

    @operation
    def rename(self, name: str) -> Steps[None]:
        """Raises AlreadyExists as Conflict."""
        return self._post("rename", name=name)

    @operation
    def wait(self, condition: str = "not-running") -> Steps[int]:
        """Wait for ``not-running``, ``next-exit`` or ``removed``; its exit code."""
        path = f"/containers/{self.id}/wait"
        data = yield from self._wire.call("POST", path, {"condition": condition})
        ended = msgspec.json.decode(data, type=Ended)
        if ended.error and ended.error.get("Message"):
            raise SampanError(ended.error["Message"])
        return ended.status_code

    @operation
    def remove(self, *, force: bool = False, volumes: bool = False) -> Steps[None]:
        """Remove it. Raises Conflict when it runs and ``force`` is not given."""
        query = {"force": force, "v": volumes}
        yield from self._wire.call("DELETE", f"/containers/{self.id}", query)

    @operation
    def inspect(self) -> Steps[dict[str, Any]]:
        """All the API tells of it."""
        return self._wire.json(f"/containers/{self.id}/json")

    @operation
    def status(self) -> Steps[str]:
        """created, running, paused, restarting or exited."""
        state = (yield from self._wire.json(f"/containers/{self.id}/json"))["State"]
        return str(state["Status"])

    @operation
    def logs(
        self, *, stdout: bool = True, stderr: bool = True, tail: int | None = None
    ) -> Steps[bytes]:
        """What it has written, both streams in their order."""
        query = {"stdout": stdout, "stderr": stderr, "tail": None if tail is None else str(tail)}
        raw = yield from self._is_terminal()
        data = yield from self._wire.call("GET", f"/containers/{self.id}/logs", query)
        return b"".join(chunk.data for chunk in Frames(raw).feed(data))

    def _follow(self, tail: int | None) -> Steps[Answer]:
        query: dict[str, object] = {"stdout": True, "stderr": True, "follow": True}
        query["tail"] = None if tail is None else str(tail)
        return self._wire.open("GET", f"/containers/{self.id}/logs", query)

    def _is_terminal(self) -> Steps[bool]:
        found = yield from self._wire.json(f"/containers/{self.id}/json")
        return bool(found["Config"]["Tty"])

    @operation
    def exec(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        user: str = "",
        workdir: str = "",
        privileged: bool = False,
    ) -> Steps[ExecResult]:
        """Run one more process in it, and wait for its end."""
        body = {
            "Cmd": [os.fspath(word) for word in command],
            "Env": [f"{name}={value}" for name, value in (env or {}).items()],
            "User": user,
            "WorkingDir": workdir,
            "Privileged": privileged,
            "AttachStdout": True,
            "AttachStderr": True,
        }
        made = yield from self._wire.call("POST", f"/containers/{self.id}/exec", None, body)
        identity = msgspec.json.decode(made, type=Made).id
        answer = yield from self._wire.open("POST", f"/exec/{identity}/start", None, {})
        kept = {"stdout": bytearray(), "stderr": bytearray()}
        frames = Frames(raw=False)
        try:
            while piece := (yield from answer.piece()):
                for chunk in frames.feed(piece):
                    kept[chunk.stream] += chunk.data
        finally:
            answer.close()
        data = yield from self._wire.call("GET", f"/exec/{identity}/json")
        code = msgspec.json.decode(data, type=ExecState).exit_code
        if code is None:
            raise SampanError(f"exec {identity} left its stream and has not ended")
        return ExecResult(
            exit_code=code, stdout=bytes(kept["stdout"]), stderr=bytes(kept["stderr"])
        )


class Container(_Container, Blocking):
    __doc__ = _Container.__doc__
    __slots__ = ()

    def follow(self, tail: int | None = None) -> Stream[Chunk]:
        """What it writes, from the last ``tail`` lines on, until it ends. Not of a terminal's."""
        return Stream(self._follow(tail), Frames(raw=False).feed)


class AsyncContainer(_Container, Awaiting):
    __doc__ = _Container.__doc__
    __slots__ = ()

    def follow(self, tail: int | None = None) -> AsyncStream[Chunk]:
        """What it writes, from the last ``tail`` lines on, until it ends. Not of a terminal's."""
        return AsyncStream(self._follow(tail), Frames(raw=False).feed)


C = TypeVar("C", bound=_Container)


class _Containers(Generic[C]):
    """The daemon's containers."""

    def __init__(self, wire: Wire, kind: type[C]) -> None:
        self._wire = wire
        self._kind = kind

    @operation
    def create(
        self, image: str, command: Command = (), **options: Unpack[CreateOptions]
    ) -> Steps[C]:
        """Make a container; it is started by ``start``. Raises NotFound, Conflict and others."""
        name = options.get("name")
        body = create_body(image, command, options)
        data = yield from self._wire.call("POST", "/containers/create", {"name": name}, body)
        made = msgspec.json.decode(data, type=Made)
        return self._kind(self._wire, made.id, made.warnings or ())

    @operation
    def get(self, reference: str) -> Steps[C]:
        """The container of a name or ID. Raises NotFound."""
        found = yield from self._wire.json(f"/containers/{name_in_path(reference)}/json")
        return self._kind(self._wire, found["Id"])

    @operation
    def list(
        self, *, all: bool = False, filters: Filters | None = None
    ) -> Steps[tuple[ContainerSummary, ...]]:
        """Those that run, or all; ``filters`` are the API's, as ``{"label": ["a=b"]}``."""
        query = {"all": all, "filters": filter_query(filters)}
        data = yield from self._wire.call("GET", "/containers/json", query)
        return msgspec.json.decode(data, type=tuple[ContainerSummary, ...])


class Containers(_Containers[Container], Blocking):
    __doc__ = _Containers.__doc__


class AsyncContainers(_Containers[AsyncContainer], Awaiting):
    __doc__ = _Containers.__doc__
