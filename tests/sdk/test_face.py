"""What ``import sampan`` is: its names, and what it does not load."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import sampan
from sampan import aio

SOURCE = Path(__file__).resolve().parents[2] / "src"


def bare(code: str) -> str:
    """What code prints in an interpreter of its own, without site-packages' start-up hooks."""
    path = [str(SOURCE), *(place for place in sys.path if place.endswith("site-packages"))]
    text = f"import sys; sys.path[:0] = {path!r}; {code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_exported_names() -> None:
    assert sampan.__all__ == sorted(sampan.__all__)
    assert aio.__all__ == sorted(aio.__all__)
    for module in (sampan, aio):
        for name in module.__all__:
            assert getattr(module, name) is not None
            assert name in dir(module)
    assert set(sampan.__all__) == {
        *("run", "start", "Session", "Process", "aio", "errors"),
        *("connect", "Engine", "Container", "Version", "Event", "ExecResult"),
        *("ContainerSummary", "ImageSummary", "CreateOptions"),
        *("Options", "RunOptions", "StartOptions", "Bind", "Tmpfs", "File"),
        *("Result", "Usage", "Outcome", "Chunk", "RunFailed", "OutOfMemory", "TimedOut"),
        *("SampanError", "AlreadyExists", "CommandNotExecutable", "CommandNotFound", "Conflict"),
        *("InvalidArgument", "KernelError", "NotFound", "NotSupported", "PermissionDenied"),
        *("Unavailable",),
    }
    assert set(aio.__all__) == {
        *("connect", "run", "start", "Session", "Process", "AsyncSession", "AsyncProcess")
    }


def test_a_name_that_is_not_there() -> None:
    try:
        sampan.no_such_name  # type: ignore[attr-defined]  # noqa: B018 - that is what is tested
    except AttributeError as error:
        assert "no_such_name" in str(error)
    else:
        raise AssertionError


def test_the_import_alone_loads_nothing() -> None:
    before = set(bare("print(*sys.modules)").split())
    names = set(bare("import sampan; print(*sys.modules)").split()) - before
    assert {name for name in names if name.startswith("sampan")} == {"sampan"}
    assert not names & {"importlib.util", "asyncio", "msgspec", "re", "threading", "sqlite3"}


def test_a_run_needs_neither_asyncio_nor_the_daemons_half() -> None:
    code = (
        "import sampan; sampan.run; sampan.Bind; import sampan.sdk.home, sampan.sdk.images, "
        "sampan.kernel.cgroups; print(*sys.modules)"
    )
    names = set(bare(code).split())
    for module in ("asyncio", "dataclasses", "http", "httptools", "isal", "subprocess", "ssl"):
        assert module not in names, module
    for module in ("sampan.api", "sampan.engine.core", "sampan.daemon", "sampan.cli"):
        assert module not in names, module


def test_the_import_is_cheap() -> None:
    best = min(_seconds("import sampan") for _ in range(5))
    nothing = min(_seconds("pass") for _ in range(5))
    assert best < 3 * nothing


def _seconds(code: str) -> float:
    """Of a processor, for a program: what else this machine does takes no part."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    bare(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
