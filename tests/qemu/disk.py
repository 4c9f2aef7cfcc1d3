"""The lane's two disks, made by ``mke2fs -d`` from a directory: nothing is mounted here.

The base disk (interpreter, standard library, the packages a daemon and pytest need, busybox, kernel
modules) is kept under a name made from all that went into it. The work disk (``src`` and ``tests``)
is made for each run.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from tests.qemu.modules import LATER, Modules, initramfs, read_module

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache" / "qemu"
SITE = Path("opt/site-packages")
TEST_TOOLS = ("pytest", "pytest-timeout")
TOOLS = tuple(
    "capsh findmnt getcap getfattr ip ipcmk ipcrm ipcs lsns nsenter ps setcap setfattr setpriv tar"
    " unshare".split()
)
"""Programs of this machine that tests drive and busybox has not, or not whole."""

_LEFT_OUT = {"test", "tests", "idlelib", "turtledemo", "lib2to3", "ensurepip", "tkinter"}


def find_program(name: str) -> Path | None:
    """A program of this machine, those in the administrator's directories included."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return None if found is None else Path(found)


def _busybox() -> Path:
    found = find_program("busybox")
    assert found is not None, "busybox is needed, linked statically"
    return found


def interpreter() -> Path:
    """The real interpreter below this virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def distributions() -> list[importlib.metadata.Distribution]:
    """What a daemon and pytest need, dependencies included."""
    found: dict[str, importlib.metadata.Distribution] = {}
    # As the checkout says, not as it said when it was installed.
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(text) for text in (*project["dependencies"], *TEST_TOOLS)]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (
            requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        found[name] = importlib.metadata.distribution(name)
        waiting += [Requirement(text) for text in found[name].requires or ()]
    return [found[name] for name in sorted(found)]


def base_disk(release: str) -> tuple[Path, Path]:
    """The base disk and the initramfs for this kernel, from the cache or made now."""
    key = _key(release)
    disk, ram = CACHE / f"base-{key}.ext4", CACHE / f"base-{key}.cpio"
    if not (disk.exists() and ram.exists()):
        CACHE.mkdir(parents=True, exist_ok=True)
        modules = Modules(release)
        _publish(ram, lambda path: path.write_bytes(initramfs(modules, _busybox())))
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"staging-{os.getpid()}-") as staging:
            root = Path(staging)
            _fill_base(root, modules)
            _publish(disk, lambda path: make_disk(path, root, 512))
        for old in CACHE.glob("base-*"):
            if key not in old.name:
                old.unlink(missing_ok=True)
        _sweep()
    return disk, ram


def _sweep() -> None:
    """Remove what a run that was killed left half made."""
    for path in (*CACHE.glob("draft-*"), *CACHE.glob("staging-*")):
        if not Path("/proc", path.name.split("-")[1]).exists():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def work_disk(path: Path, scratch: Path, script: str) -> None:
    """A disk at ``path`` with the checkout's code and the script the machine runs as PID 1."""
    root = scratch / "work"
    ignored = shutil.ignore_patterns("*.pyc", ".*")
    for name in ("src", "tests"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(CHECKOUT / name, root / name)
    init = root / ".lane" / "init"
    init.parent.mkdir()
    init.write_text(script)
    init.chmod(0o755)
    # Compiling is cheap here and dear under emulation.
    compileall.compile_dir(root, quiet=2, stripdir=str(root), prependdir="/sampan")
    make_disk(path, root, 128)


def make_disk(path: Path, root: Path, megabytes: int) -> None:
    """An ext4 file system of that size with the tree below ``root``; the file is sparse."""
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), "-L", "lane", str(path), f"{megabytes}M"],
        check=True,
        env={**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"},
        stdout=subprocess.DEVNULL,
    )


def _publish(path: Path, make: object) -> None:
    assert callable(make)
    draft = path.with_name(f"draft-{os.getpid()}-{path.name}")
    try:
        make(draft)
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def _key(release: str) -> str:
    """A digest of all that goes into the base disk, by names, sizes and times."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    modules = Path("/lib/modules") / release / "modules.dep"
    for path in (interpreter(), _busybox(), modules, *_tools()):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    for path in _library():
        status = path.stat()
        digest.update(f"{path} {status.st_size} {int(status.st_mtime)}\n".encode())
    for distribution in distributions():
        digest.update(f"{distribution.name} {distribution.version}\n".encode())
    return digest.hexdigest()[:16]


def _library() -> Iterator[Path]:
    """The files of the standard library, without its own tests."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    for directory, names, files in os.walk(stdlib):
        names[:] = sorted(
            name
            for name in names
            if name not in _LEFT_OUT | {"__pycache__", "site-packages", "dist-packages"}
            and not name.startswith("config-")
        )
        yield from (Path(directory) / name for name in sorted(files))


def _fill_base(root: Path, modules: Modules) -> None:
    for name in "bin dev etc opt proc root run sampan sbin sys tmp usr/bin var/lib".split():
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/hostname").write_text("lane\n")
    python = interpreter()
    elves = [python]
    _copy(python, root)
    # The name that containers of the host image call it by.
    (root / "usr/bin/python3").symlink_to(python)
    for path in _library():
        _copy(path, root)
        if path.suffix == ".so":
            elves.append(path)
    site = root / SITE
    for distribution in distributions():
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            # Scripts lie beside site-packages, and an editable install has a .pth of this machine.
            if ".." in file.parts or file.suffix in (".pth", ".pyc") or not source.is_file():
                continue
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            if ".so" in file.name:
                elves.append(source)
    for tool in _tools():
        shutil.copy2(tool, root / "usr/bin" / tool.name)
        elves.append(tool)
    for library in _shared_libraries(elves):
        _copy(library, root)
    compileall.compile_dir(root, quiet=2, stripdir=str(root), prependdir="/", workers=0)
    _install_busybox(root)
    _install_modules(root, modules)


def _tools() -> list[Path]:
    return [tool for tool in map(find_program, TOOLS) if tool is not None]


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)


def _shared_libraries(elves: list[Path]) -> list[Path]:
    """What the dynamic loader would load for these files, the loader itself included."""
    listed = subprocess.run(
        ["ldd", *map(str, elves)], check=False, capture_output=True, text=True
    ).stdout
    found = set(re.findall(r"(?:=> |^\t)(/\S+) \(0x", listed, flags=re.MULTILINE))
    # The C library opens this one by itself when a thread is cancelled.
    where = {Path(path).parent for path in found}
    found |= {str(path / "libgcc_s.so.1") for path in where if (path / "libgcc_s.so.1").exists()}
    return [Path(path) for path in sorted(found)]


def _install_busybox(root: Path) -> None:
    busybox = _busybox()
    shutil.copy2(busybox, root / "bin/busybox")
    applets = subprocess.run(
        [str(busybox), "--list"], check=True, capture_output=True, text=True
    ).stdout
    for name in applets.split():
        link = root / "bin" / name
        if not link.exists():
            link.symlink_to("busybox")
    (root / "sbin/modprobe").symlink_to("../bin/busybox")


def _install_modules(root: Path, modules: Modules) -> None:
    target = root / "lib/modules" / modules.directory.name
    for path in modules.closure(LATER):
        file = target / path.relative_to(modules.directory).with_name(path.name.removesuffix(".xz"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(read_module(path))
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy2(modules.directory / name, target / name)
    subprocess.run(
        ["depmod", "-b", str(root), modules.directory.name],
        check=True,
        env={**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"},
    )
