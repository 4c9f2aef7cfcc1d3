"""What is said on a monitor's sockets, as records: decoded strictly before anything is done.

Requests carry ``op`` and, but for ``spawn``, a number ``seq`` that the reply repeats:
``{"reply": seq, "ok": true, …}`` or ``{"reply": seq, "error": {"type", "message", "exit_code"}}``;
0 is for who wants none.
A field this monitor does not know is refused by name: a daemon newer than the monitor it adopted
learns that it asked for something that will not be done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, SampanError
from sampan.oci.record import Misread, Record
from sampan.oci.runtime import Mount, Resources  # noqa: TC001  records read them
from sampan.runtime.plugs import Plug  # noqa: TC001

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "Attach",
    "Drafted",
    "Exec",
    "Kill",
    "LogFile",
    "LogOptions",
    "Message",
    "Plain",
    "Prepare",
    "Release",
    "Resize",
    "SeccompProgram",
    "Spawn",
    "Update",
    "error_fields",
    "window",
]

_ENVELOPE = ("op", "seq")


class Message(Record):
    """A record whose JSON names are its field names, with nothing unknown beside them."""

    def __init_subclass__(cls) -> None:
        own = cls.__dict__.get("__annotations__", {})
        cls.json_names = {name: name for name in (*cls._names, *own)}
        super().__init_subclass__()

    @classmethod
    def _label(cls) -> str:
        return cls.__name__.lower()

    @classmethod
    def _read(cls, value: object) -> Self:
        if isinstance(value, dict):
            for name in value:
                if name not in cls._names and name not in _ENVELOPE:
                    raise Misread(f"no field {name!r}")
        return super()._read(value)


class LogFile(Message):
    """A log in files: see ``logs.files``. ``max_size`` in bytes."""

    path: str = ""
    max_size: int | None = None
    max_file: int = 1
    compress: bool = False


class LogOptions(LogFile):
    """A container's log (docs/logs.md). ``tag_attrs`` are repeated in every line, as Docker's
    ``attrs``. ``cache``: a local log to be kept beside one that cannot be read. For the drivers
    that send: ``address`` (syslog's as a URL, or the journal's path), ``facility``, ``format`` and
    ``tag`` of syslog, ``fields`` of the journal."""

    driver: str
    tag_attrs: dict[str, str] = {}
    blocking: bool = True
    buffer_size: int = 1 << 20
    cache: LogFile | None = None
    address: str = ""
    facility: int = 3
    format: str = ""
    tag: str = ""
    fields: dict[str, str] = {}


class SeccompProgram(Message):
    """A compiled filter: ``program`` an array of struct sock_filter in base64, ``flags`` those of
    seccomp(2), ``notify`` whether loading it returns a listener."""

    program: str
    flags: int = 0
    notify: bool = False


class Spawn(Message):
    """One container. ``spec`` stays JSON here: it is decoded where it is used. ``seccomp`` stands
    for its ``linux.seccomp``, for the container's further processes too. ``stdio``: descriptors 0,
    1 and 2 came with the request, and no output passes through the monitor. ``bound``: the
    container is killed when nobody is connected to its monitor any more. ``links``: symbolic links
    by their paths in the container, made where there is nothing."""

    id: str
    run_dir: str
    spec: object
    bundle: str
    rootfs: tuple[Mount, ...] = ()
    cgroup: str | None = None
    seccomp: SeccompProgram | None = None
    log: LogOptions | None = None
    terminal: bool = False
    console_size: tuple[int, ...] | None = None
    stdin: bool = False
    stdin_once: bool = False
    init: bool = False
    start: bool = False
    stdio: bool = False
    bound: bool = False
    plugs: tuple[Plug, ...] = ()
    links: dict[str, str] = {}


class Plain(Message):
    """A request without arguments: status, start, pause, resume, usage."""


class Kill(Message):
    """To init, to every process (``all``), or to one of the further ones and its session."""

    signal: int
    all: bool = False
    exec_id: str | None = None


class Resize(Message):
    rows: int
    cols: int
    exec_id: str | None = None


class Attach(Message):
    """``hold``: output is kept back until ``release``, for what is in the log goes before it. The
    reply says where the log ends at this moment, and a number for the release."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    multiplex: bool = False
    detach_keys: tuple[int, ...] = ()
    hold: bool = False


class Release(Message):
    attachment: int


class Exec(Message):
    """``process`` stays JSON until it is needed: its maker decodes it."""

    exec_id: str
    process: object
    terminal: bool = False
    console_size: tuple[int, ...] | None = None
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    multiplex: bool = False
    detach_keys: tuple[int, ...] = ()
    privileged: bool = False
    """What it means stands in ``process`` already: nothing is added to it."""


class Prepare(Message):
    """An exec is about to be asked for: perhaps ``draft``, an ``Exec`` in JSON, by its name
    (``exec-drafted``)."""

    draft: object = None


class Drafted(Message):
    """The exec of that name, as its draft says; NotFound where that is not there any more."""

    exec_id: str


class Update(Message):
    resources: Resources


def error_fields(error: SampanError) -> dict[str, object]:
    """The form in which an error crosses a process border (``sampan.errors.by_name``)."""
    return {
        "type": type(error).__name__,
        "message": error.message,
        "exit_code": error.exit_code,
    }


def window(size: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of a ``console_size``."""
    if len(size) != 2:
        raise InvalidArgument(f"console_size: expected [rows, columns], not {list(size)}")
    return size[0], size[1]
