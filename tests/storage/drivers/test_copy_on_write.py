"""Copy-on-write seen on disk: shared lower bytes, whiteouts, and what each driver costs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from sampan.errors import InvalidArgument, NotSupported
from sampan.storage.drivers import open_driver
from tests.storage.drivers.layers import DELETED, layer, stack, within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sampan.storage.drivers.base import SnapshotDriver

pytestmark = pytest.mark.root

OVERLAID = ("overlay2", "overlay")
BASE = layer({"d/": None, "d/one": b"1" * 100_000, "d/two": b"2", "e/": None, "e/f": b"3"})
ABOVE = layer({"top": b"top", "d/two": DELETED})


@pytest.fixture(params=OVERLAID)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotDriver]:
    opened = open_driver(str(request.param), str(tmp_path / "data"))
    yield opened
    opened.collect()
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root")


def upper(driver: SnapshotDriver, container: str) -> str:
    return driver.graph(container)["UpperDir"]


def test_two_containers_share_every_lower_byte(driver: SnapshotDriver, root: str) -> None:
    chain = stack(driver, BASE, ABOVE)
    driver.create_container("a", chain)
    driver.create_container("b", chain)
    # The same bytes through both mounts: one write to the layer's file is seen in each, and no
    # container's own directory has any of them.
    lower = driver.graph("a")["LowerDir"]
    assert lower == driver.graph("b")["LowerDir"]
    script = "stat -c %i:%b $ROOT/d/one $ROOT/top"
    assert within(driver.mounts("a"), root, script) == within(driver.mounts("b"), root, script)
    for container in ("a", "b"):
        assert os.listdir(upper(driver, container)) == []
        assert driver.usage(container).bytes < 64 << 10


def test_the_first_write_copies_up_into_that_container_alone(
    driver: SnapshotDriver, root: str
) -> None:
    chain = stack(driver, BASE)
    driver.create_container("a", chain)
    driver.create_container("b", chain)
    within(driver.mounts("a"), root, "echo more >>$ROOT/d/one")
    copied = os.path.join(upper(driver, "a"), "d", "one")
    assert os.stat(copied).st_size == 100_005
    assert os.listdir(upper(driver, "b")) == []
    lowest = os.path.join(driver.graph("b")["LowerDir"].split(":")[-1], "d", "one")
    assert os.stat(lowest).st_size == 100_000


def test_deleting_a_lower_file_makes_a_whiteout(driver: SnapshotDriver, root: str) -> None:
    driver.create_container("a", stack(driver, BASE))
    within(driver.mounts("a"), root, "rm $ROOT/d/one")
    status = os.lstat(os.path.join(upper(driver, "a"), "d", "one"))
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == os.makedev(0, 0)
    within(driver.mounts("a"), root, "rm -r $ROOT/e; mkdir $ROOT/e")
    opaque = os.getxattr(os.path.join(upper(driver, "a"), "e"), "trusted.overlay.opaque")
    assert opaque == b"y"


def test_overlay2_stores_a_layer_once_and_overlay_links_it_again(tmp_path: Path) -> None:
    inodes = {}
    for name in OVERLAID:
        driver = open_driver(name, str(tmp_path / name))
        chain = stack(driver, BASE, *(layer({f"n{i}": b"x"}) for i in range(5)))
        one = "d/one"
        copies = [os.path.join(tmp_path, name, name, "layers", c[7:], "diff", one) for c in chain]
        found = {os.stat(path).st_ino for path in copies if os.path.exists(path)}
        assert len(found) == 1  # one inode: the file is there once, by one name or by six
        assert sum(map(os.path.exists, copies)) == (1 if name == "overlay2" else 6)
        inodes[name] = sum(driver.layer_usage(chain_id).inodes for chain_id in chain)
        driver.close()
    assert inodes["overlay"] > inodes["overlay2"]


def test_a_hundred_layers_fit_the_page_that_mount_takes(root: str) -> None:
    # A data root with a path as long as the usual one, which this test's own directory is not.
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as data_root:
        driver = open_driver("overlay2", data_root)
        chain = stack(driver, *(layer({f"file{i}": str(i).encode()}) for i in range(120)))
        driver.create_container("c" * 64, chain)
        recipe = driver.mounts("c" * 64)
        assert len(",".join(recipe[0].options)) < 4096
        assert within(recipe, root, "ls $ROOT | wc -l; cat $ROOT/file0") == "120\n0"
        driver.close()


def test_short_names_are_made_again_when_they_are_lost(tmp_path: Path, root: str) -> None:
    data_root = str(tmp_path / "data")
    driver = open_driver("overlay2", data_root)
    driver.create_container("c", stack(driver, BASE, ABOVE))
    driver.close()
    for link in os.listdir(f"{data_root}/l"):
        os.unlink(f"{data_root}/l/{link}")
    os.symlink("../overlay2/layers/" + "0" * 64 + "/diff", f"{data_root}/l/gone")
    driver = open_driver("overlay2", data_root)
    assert within(driver.mounts("c"), root, "cat $ROOT/top") == "top"
    assert len(os.listdir(f"{data_root}/l")) == 2
    driver.close()


def test_a_machine_s_directory_is_laid_over_and_never_written(
    driver: SnapshotDriver, root: str, tmp_path: Path
) -> None:
    machine = tmp_path / "machine"
    (machine / "bin").mkdir(parents=True)
    (machine / "bin" / "tool").write_text("tool")
    (machine / "bin" / "old").write_text("old")
    place = str(machine)
    skeleton = {f"{'/'.join(place[1:].split('/')[:n])}/": None for n in range(1, 9)}
    chain = stack(driver, layer({**skeleton, "etc/": None}))
    driver.create_container("c", chain, (place,))
    recipe = driver.mounts("c")
    assert [mount.destination for mount in recipe] == ["/", place]
    script = f"cd $ROOT{place}; cat bin/tool; echo x >bin/tool; rm bin/old; echo y >new; "
    script += "touch $ROOT/etc/z"
    assert within(recipe, root, script) == "tool"
    assert (machine / "bin" / "tool").read_text() == "tool"
    assert sorted(os.listdir(machine / "bin")) == ["old", "tool"]
    below = place[1:]
    assert [(c.kind, c.path.decode()) for c in driver.changes("c")] == sorted(
        [
            ("C", "etc"),
            ("A", "etc/z"),
            ("C", below),
            ("C", f"{below}/bin"),
            ("D", f"{below}/bin/old"),
            ("C", f"{below}/bin/tool"),
            ("A", f"{below}/new"),
        ],
        key=lambda change: change[1],
    )


def test_a_difference_covers_every_upper_directory(
    driver: SnapshotDriver, root: str, tmp_path: Path
) -> None:
    import io
    import tarfile

    machine = tmp_path / "machine"
    (machine / "bin").mkdir(parents=True)
    (machine / "bin" / "old").write_text("old")
    place = str(machine)
    skeleton = {f"{'/'.join(place[1:].split('/')[:n])}/": None for n in range(1, 9)}
    driver.create_container("c", stack(driver, layer({**skeleton, "etc/": None})), (place,))
    script = f"rm $ROOT{place}/bin/old; echo y >$ROOT{place}/new; touch $ROOT/etc/z"
    within(driver.mounts("c"), root, script)
    out = io.BytesIO()
    driver.diff("c", out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        names = archive.getnames()
    below = place[1:]
    assert {"etc/z", f"{below}/new", f"{below}/bin/.wh.old"} <= set(names)
    assert not [name for name in names if name.startswith(("bin", "new"))]


def test_vfs_cannot_lay_a_machine_s_directory(tmp_path: Path) -> None:
    driver = open_driver("vfs", str(tmp_path))
    chain = stack(driver, BASE)
    with pytest.raises(NotSupported, match=r"vfs .* /usr of this machine"):
        driver.create_container("c", chain, ("/usr",))
    assert driver.containers() == {}
    driver.close()


@pytest.mark.parametrize("bad", ["usr", "/usr/", "/a/../b", "/a:b", "/"])
def test_a_machine_s_directory_that_cannot_be_laid_is_named(
    driver: SnapshotDriver, bad: str
) -> None:
    chain = stack(driver, BASE)
    with pytest.raises(InvalidArgument, match="system directory"):
        driver.create_container("c", chain, (bad,))
    assert driver.containers() == {}


def test_a_data_root_overlay_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="colon"):
        open_driver("overlay2", str(tmp_path / "a:b"))
    with pytest.raises(InvalidArgument, match="is not one of"):
        open_driver("zfs", str(tmp_path))


ON_OVERLAY = """
import sys
from sampan.errors import NotSupported
from sampan.storage.drivers import open_driver
try:
    open_driver(sys.argv[1], sys.argv[2] + "/merged/data")
except NotSupported as error:
    print(error)
"""


@pytest.mark.parametrize("name", OVERLAID)
def test_a_file_system_overlay_cannot_write_on_is_named(tmp_path: Path, name: str) -> None:
    script = (
        'cd "$1"; mkdir lower upper work merged; '
        "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged; "
        'exec "$2" -c "$3" "$4" "$1"'
    )
    own = ("unshare", "-m", "--propagation", "private")
    done = subprocess.run(
        [*own, "sh", "-ec", script, "sh", str(tmp_path), sys.executable, ON_OVERLAY, name],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("overlay cannot write on the file system of ")
