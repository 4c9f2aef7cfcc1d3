"""An empty volume takes what the image has: whole, or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import SampanError
from sampan.storage.database import Database
from sampan.volume.store import Volume, VolumeStore
from tests.runtime.test_copyup import fill as make_content
from tests.runtime.test_copyup import listing

pytestmark = pytest.mark.root

STEPS = ("os.mkdir", "os.rename", "os.chown", "os.chmod", "os.setxattr", "os.symlink")


def killed_at(step: int, root: Path, image: Path) -> bool:
    """Make and fill a volume in a process of its own, killed before its ``step``th change of the
    disk; whether it was."""
    pid = os.fork()
    if pid == 0:
        left = step

        def watch(event: str, _: object) -> None:
            nonlocal left
            if event in STEPS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            store = VolumeStore(str(root), Database(f"{root}/sampan.db"))
            volume, _ = store.create("vol")
            store.fill(volume, os.open(image, os.O_RDONLY))
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[VolumeStore]:
    database = Database(str(tmp_path / "sampan.db"))
    store = VolumeStore(str(tmp_path), database)
    yield store
    store.close()
    database.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    source = tmp_path / "image"
    source.mkdir()
    make_content(source)
    os.setxattr(source, "user.mark", b"image")
    return source


def filled(volumes: VolumeStore, volume: Volume, image: Path) -> None:
    source = os.open(image, os.O_RDONLY)
    try:
        volumes.fill(volume, source)
    finally:
        os.close(source)


def test_an_empty_volume_takes_what_the_image_has(volumes: VolumeStore, image: Path) -> None:
    volume, _ = volumes.create("vol")
    filled(volumes, volume, image)
    assert listing(volume.path) == listing(str(image))
    assert os.getxattr(volume.path, "user.mark") == b"image"
    volumes.collect()
    assert os.listdir(os.path.dirname(volume.path)) == ["_data"]


def test_one_that_holds_something_is_left_alone(volumes: VolumeStore, image: Path) -> None:
    volume, _ = volumes.create("vol")
    Path(volume.path, "mine").touch()
    filled(volumes, volume, image)
    assert os.listdir(volume.path) == ["mine"]


def test_what_somebody_writes_meanwhile_stays(volumes: VolumeStore, image: Path) -> None:
    """A container that has the volume too writes a file of the same name during the copy."""
    volume, _ = volumes.create("vol")
    place = Path(volume.path).parent
    os.rename(image, place / ".filled")
    Path(volume.path, "link").write_text("mine")
    reopened = VolumeStore(str(place.parents[1]), Database(str(place.parents[1] / "sampan.db")))
    assert Path(volume.path, "link").read_text() == "mine"
    assert Path(volume.path, "deep/file").read_text() == "content"
    reopened.close()


def test_a_volume_with_a_file_system_of_its_own_is_filled_in_it(
    volumes: VolumeStore, image: Path
) -> None:
    volume, _ = volumes.create("vol", options={"type": "tmpfs", "device": "tmpfs"})
    volumes.open(volume)
    try:
        filled(volumes, volume, image)
        assert sorted(os.listdir(volume.path)) == sorted(os.listdir(image))
    finally:
        volumes.shut("vol")
    assert os.listdir(volume.path) == []


def test_a_full_disk_is_said_and_leaves_an_empty_volume(tmp_path: Path, image: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(small)], check=True)
    try:
        database = Database(str(tmp_path / "other.db"))
        store = VolumeStore(str(small), database)
        volume, _ = store.create("vol")
        (image / "large").write_bytes(b"x" * (2 << 20))
        with pytest.raises(SampanError, match="no space left on device while filling"):
            filled(store, volume, image)
        assert os.listdir(volume.path) == []
        store.collect()
        assert os.listdir(os.path.dirname(volume.path)) == ["_data"]
        store.close()
        database.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_kill_at_any_step_leaves_it_empty_or_whole(tmp_path: Path, image: Path) -> None:
    whole = listing(str(image))
    seen = set()
    for step in range(1, 100):
        root = tmp_path / f"root{step}"
        root.mkdir()
        killed = killed_at(step, root, image)
        database = Database(str(root / "sampan.db"))
        store = VolumeStore(str(root), database)
        names = {volume.name for volume in store.list()}
        assert set(os.listdir(store.root)) - {".trash"} == names
        if names:
            volume = store.get("vol")
            found = listing(volume.path)
            if len(found) > 1:
                assert found.keys() == whole.keys()
                assert all(found[name] == whole[name] for name in found if name != ".")
                mode, owner = found["."][0], found["."][1:3]
                assert (stat.S_IMODE(mode), owner) == (0o1770, [31, 32])
            seen.add(len(found) > 1)
        store.close()
        database.close()
        if not killed:
            break
    assert seen == {False, True}
    assert not killed
