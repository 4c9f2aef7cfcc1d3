"""What every storage driver must do: the same tests for each."""

from __future__ import annotations

import io
import os
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from sampan.errors import AlreadyExists, InvalidArgument, NotFound
from sampan.storage.drivers import DRIVERS, open_driver
from tests.storage.drivers.layers import DELETED, layer, listing, put, stack, within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sampan.storage.drivers.base import SnapshotDriver

pytestmark = pytest.mark.root

BASE = layer(
    {
        "./": None,
        "d/": None,
        "d/one": b"one",
        "d/two": b"two",
        "d/sub/": None,
        "d/sub/deep": b"deep",
        "hard": b"linked",
        "hard2": ("hard", "hard"),
        "link": "d/one",
    }
)
CHANGED = layer({"d/": None, "d/one": b"ONE, longer", "d/two": DELETED, "new": b"new"})
GONE = layer({"d": DELETED, "link": b"no link any more"})
AGAIN = layer({"d/": None, "d/three": b"three"})


@pytest.fixture(params=DRIVERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def driver(name: str, tmp_path: Path) -> Iterator[SnapshotDriver]:
    opened = open_driver(name, str(tmp_path / "data"))
    yield opened
    opened.collect()
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root")


def test_a_container_shows_all_layers_as_one(driver: SnapshotDriver, root: str) -> None:
    chain = stack(driver, BASE, CHANGED)
    driver.create_container("c", chain)
    shown = within(
        driver.mounts("c"), root, "cd $ROOT; cat d/one d/sub/deep new; readlink link; ls d | xargs"
    )
    assert shown == "ONE, longerdeepnewd/one\none sub\n"


def test_what_a_layer_deletes_is_gone_above_and_stays_below(
    driver: SnapshotDriver, root: str
) -> None:
    chain = stack(driver, BASE, CHANGED, GONE, AGAIN)
    seen = []
    for depth in range(1, 5):
        driver.create_container(f"c{depth}", chain[:depth])
        seen.append(
            within(driver.mounts(f"c{depth}"), root, "cd $ROOT; find d -type f | sort | xargs")
            if depth != 3
            else within(driver.mounts("c3"), root, "cd $ROOT; test ! -e d; cat link")
        )
    assert seen == ["d/one d/sub/deep d/two\n", "d/one d/sub/deep\n", "no link any more",
                    "d/three\n"]  # fmt: skip


def test_a_layer_made_above_leaves_the_one_below_as_it_was(
    driver: SnapshotDriver, root: str
) -> None:
    base = stack(driver, BASE)
    driver.create_container("before", base)
    first = listing(driver.mounts("before"), root)
    stack(driver, BASE, layer({"hard": b"changed", "d/one": b"1", "d/sub/": None}, mode=0o700))
    driver.create_container("after", base)
    assert listing(driver.mounts("after"), root) == first


def test_a_disposable_container_may_be_mounted_again(driver: SnapshotDriver, root: str) -> None:
    driver.create_container("c", stack(driver, BASE))
    for number in (1, 2):
        recipe = driver.mounts("c", disposable=True)
        assert within(recipe, root, f"cd $ROOT; touch new{number}; ls d | xargs") == "one sub two\n"
    assert within(driver.mounts("c", disposable=True), root, "cd $ROOT; echo new*") == "new1 new2\n"
    if driver.name != "vfs":
        assert all("volatile" in mount.options for mount in recipe)
        assert not any("volatile" in mount.options for mount in driver.mounts("c"))


def test_writes_stay_in_their_own_container(driver: SnapshotDriver, root: str) -> None:
    chain = stack(driver, BASE)
    for container in ("a", "b"):
        driver.create_container(container, chain)
    within(driver.mounts("a"), root, "cd $ROOT; echo more >>d/one; rm -r d/sub; touch fresh")
    assert within(driver.mounts("b"), root, "cd $ROOT; cat d/one d/sub/deep; ls") == (
        "onedeepd\nhard\nhard2\nlink\n"
    )
    again = within(driver.mounts("a"), root, "cd $ROOT; cat d/one; ls d; ls")
    assert again == "onemore\none\ntwo\nd\nfresh\nhard\nhard2\nlink\n"


def test_hard_links_are_links_of_each_other(driver: SnapshotDriver, root: str) -> None:
    driver.create_container("c", stack(driver, BASE))
    shown = within(driver.mounts("c"), root, "cd $ROOT; test hard -ef hard2; stat -c %h hard2")
    # A driver made of hard links shows its own, too.
    assert int(shown) >= 2


def test_changes_are_listed(driver: SnapshotDriver, root: str) -> None:
    driver.create_container("c", stack(driver, BASE))
    assert driver.changes("c") == []
    within(
        driver.mounts("c"),
        root,
        "cd $ROOT; echo x >d/fresh; rm d/one; echo y >>d/two; rm -r d/sub; mkdir e; touch e/f",
    )
    changes = [(change.kind, change.path.decode()) for change in driver.changes("c")]
    assert changes == [
        ("C", "d"),
        ("A", "d/fresh"),
        ("D", "d/one"),
        ("D", "d/sub"),
        ("C", "d/two"),
        ("A", "e"),
        ("A", "e/f"),
    ]


def test_what_was_made_to_mount_on_is_no_change(
    driver: SnapshotDriver, root: str, tmp_path: Path
) -> None:
    chain = stack(driver, BASE)
    driver.create_container("c", chain)
    marks = [b"proc", b"d/one", b"d/hosts", b"etc/hosts", b"etc/hostname", b"run/lock"]
    made = "cd $ROOT; mkdir proc etc run run/lock; touch d/hosts etc/hosts etc/hostname"
    within(driver.mounts("c"), root, made)
    assert driver.changes("c", marks) == []
    assert len(driver.changes("c")) == 8
    out = io.BytesIO()
    driver.diff("c", out, marks)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert [name for name in archive.getnames() if name != "."] == []
    # What is not empty, or was there before, or stands beside them, is somebody's doing.
    within(
        driver.mounts("c"),
        root,
        "cd $ROOT; >d/one; touch proc/1; echo x >etc/hostname; chmod 700 d; touch run/pid",
    )
    changes = [(change.kind, change.path.decode()) for change in driver.changes("c", marks)]
    assert changes == [
        ("C", "d"),
        ("C", "d/one"),
        ("A", "etc"),
        ("A", "etc/hostname"),
        ("A", "proc"),
        ("A", "proc/1"),
        ("A", "run"),
        ("A", "run/pid"),
    ]


def test_the_size_is_that_of_the_files_written(driver: SnapshotDriver, root: str) -> None:
    driver.create_container("c", stack(driver, BASE))
    assert driver.size("c") == 0
    within(
        driver.mounts("c"),
        root,
        "cd $ROOT; echo 12345 >d/fresh; ln d/fresh again; rm d/one; mkdir -p e/f;"
        " truncate -s 1000 e/hole; ln -s 1234567890 e/link",
    )
    assert driver.size("c") == 6 + 1000 + 10


def test_a_tree_deeper_than_any_path_is_measured_and_listed(
    driver: SnapshotDriver, root: str
) -> None:
    driver.create_container("c", stack(driver, BASE))
    step, levels = "d" * 200, 30
    within(
        driver.mounts("c"),
        root,
        f"cd -P $ROOT; for i in $(seq {levels}); do mkdir {step}; cd -P {step}; done; echo x >file",
    )
    assert driver.size("c") == 2
    assert driver.changes("c")[-1].path == b"/".join([step.encode()] * levels + [b"file"])


def test_a_difference_is_a_layer_that_makes_the_same_tree(
    driver: SnapshotDriver, root: str, tmp_path: Path
) -> None:
    chain = stack(driver, BASE)
    driver.create_container("c", chain)
    within(
        driver.mounts("c"),
        root,
        "cd $ROOT; rm -r d; mkdir d; echo x >d/fresh; chmod 640 hard; ln -sf d/fresh link",
    )
    out = io.BytesIO()
    driver.diff("c", out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert "d/fresh" in [name.removeprefix("./") for name in archive.getnames()]
    driver.create_container("same", stack(driver, BASE, out.getvalue()))
    assert listing(driver.mounts("same"), root) == listing(driver.mounts("c"), root)


def test_the_root_directory_keeps_its_owner_and_mode(driver: SnapshotDriver, root: str) -> None:
    data = layer({"./": None, "f": b""}, mode=0o711)
    driver.create_container("c", stack(driver, data, layer({"g": b""})))
    assert within(driver.mounts("c"), root, "stat -c %a $ROOT") == "711\n"


def test_attributes_and_capabilities_of_files_are_kept(driver: SnapshotDriver, root: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("ping")
        info.mode, info.uid, info.gid = 0o4755, 7, 8
        capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
        info.pax_headers = {"SCHILY.xattr.security.capability": capability.decode("latin-1")}
        archive.addfile(info)
    driver.create_container("c", stack(driver, BASE, buffer.getvalue(), layer({"x": b""})))
    script = "cd $ROOT; stat -c '%a %u:%g' ping; getfattr -n security.capability -e hex ping"
    shown = within(driver.mounts("c"), root, script)
    assert "4755 7:8" in shown
    assert "0x0100000200200000" in shown


def test_a_container_is_there_until_it_is_removed(driver: SnapshotDriver) -> None:
    chain = stack(driver, BASE, CHANGED)
    driver.create_container("one", chain)
    driver.create_container("two", chain[:1])
    assert driver.containers() == {"one": chain[1], "two": chain[0]}
    assert driver.usage("one").inodes > 1
    driver.remove_container("one")
    driver.remove_container("one")
    assert driver.containers() == {"two": chain[0]}
    with pytest.raises(NotFound, match="one"):
        driver.mounts("one")
    driver.create_container("one", chain)


def test_names_are_not_taken_twice(driver: SnapshotDriver) -> None:
    chain = stack(driver, BASE)
    driver.create_container("c", chain)
    with pytest.raises(AlreadyExists, match="c has a root"):
        driver.create_container("c", chain)
    staging = driver.prepare_layer(chain[0], None)
    with pytest.raises(AlreadyExists, match=chain[0]):
        driver.commit_layer(staging)
    assert driver.containers() == {"c": chain[0]}


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../x"])
def test_a_name_that_leads_elsewhere_is_refused(driver: SnapshotDriver, bad: str) -> None:
    chain = stack(driver, BASE)
    with pytest.raises(InvalidArgument):
        driver.create_container(bad, chain)
    with pytest.raises(InvalidArgument):
        driver.remove_container(bad)


def test_a_missing_layer_is_named(driver: SnapshotDriver) -> None:
    missing = "sha256:" + "e" * 64
    with pytest.raises(NotFound, match=missing):
        driver.create_container("c", (missing,))
    with pytest.raises(NotFound, match=missing):
        driver.prepare_layer("sha256:" + "f" * 64, missing)
    assert driver.containers() == {}


def test_a_discarded_layer_leaves_nothing(driver: SnapshotDriver, tmp_path: Path) -> None:
    chain = stack(driver, BASE)
    driver.collect()
    before = set(os.listdir("/proc/self/fd"))
    other = "sha256:" + "c" * 64
    driver.discard_layer(driver.prepare_layer(other, chain[0]))
    assert not driver.has_layer(other)
    driver.collect()
    base = tmp_path / "data" / driver.name
    assert os.listdir(base / "staging") == []
    assert os.listdir(base / "trash") == []
    # The thread that empties the trash may have a directory open for a moment more.
    deadline = time.monotonic() + 60
    while not set(os.listdir("/proc/self/fd")) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_is_known_again_after_reopening(name: str, tmp_path: Path, root: str) -> None:
    data_root = str(tmp_path / "data")
    driver = open_driver(name, data_root)
    chain = stack(driver, BASE, CHANGED)
    driver.create_container("c", chain)
    within(driver.mounts("c"), root, "echo kept >$ROOT/kept")
    recipe = driver.mounts("c")
    staging = driver.prepare_layer("sha256:" + "d" * 64, None)
    os.close(staging.fd)
    (tmp_path / "data" / name / "rw" / "half-made").mkdir()
    driver.close()
    driver = open_driver(name, data_root)
    assert sorted(driver.layers()) == sorted(chain)
    assert driver.containers() == {"c": chain[1]}
    assert driver.mounts("c") == recipe
    assert within(recipe, root, "cat $ROOT/kept") == "kept\n"
    driver.collect()
    assert os.listdir(tmp_path / "data" / name / "staging") == []
    assert os.listdir(tmp_path / "data" / name / "rw") == ["c"]
    driver.close()


def test_removed_layers_are_gone(driver: SnapshotDriver, tmp_path: Path) -> None:
    chain = stack(driver, BASE, CHANGED)
    for chain_id in reversed(chain):
        driver.remove_layer(chain_id)
        driver.remove_layer(chain_id)
    assert driver.layers() == []
    driver.collect()
    assert os.listdir(tmp_path / "data" / driver.name / "layers") == []
    put(driver, chain[0], None, BASE)
    assert driver.has_layer(chain[0])


def test_every_driver_makes_the_same_tree(tmp_path: Path, root: str) -> None:
    trees = []
    for name in DRIVERS:
        driver = open_driver(name, str(tmp_path / name))
        driver.create_container("c", stack(driver, BASE, CHANGED, GONE, AGAIN, CHANGED))
        trees.append(listing(driver.mounts("c"), root))
        driver.close()
    assert trees[0].count("\n") > 8
    assert trees[0] == trees[1] == trees[2]
