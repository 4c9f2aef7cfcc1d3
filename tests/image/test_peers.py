"""Other programs' images come in here, and ours go out to them: dockerd, skopeo, umoci."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sampan.image.store import ImageStore
from tests.daemon_fixture import DOCKER, Daemon
from tests.image.archives import BASE
from tests.storage.drivers.layers import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.peer]

DOCKERFILE = """
FROM base:1
ENV GREETING=hello
RUN echo three >/d/three && ln /d/three /d/hard && rm /d/one
RUN rm -r /d/sub && mkdir /d/sub && echo new >/d/sub/new
RUN chmod 4755 /bin/sh && mkdir -p /x/y && ln -s ../z /x/y/link
LABEL made=by-dockerd
CMD ["sh"]
"""


class Docker:
    """A dockerd of its own, without networks, and its client."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._host = f"unix://{directory}/d.sock"
        command = [
            *("setpriv", "--pdeathsig", "TERM", "dockerd"),  # it ends with us, however we end
            "--data-root",
            f"{directory}/root",
            "--exec-root",
            f"{directory}/exec",
        ]
        command += ["-H", self._host, "--pidfile", f"{directory}/pid", "--bridge", "none"]
        command += ["--iptables=false", "--log-level", "error", *options]
        self._log = open(directory / "log", "wb")  # noqa: SIM115 - as long as the daemon
        self._daemon = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + 120
        while subprocess.run(
            ["docker", "-H", self._host, "version"], capture_output=True, check=False
        ).returncode:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"dockerd does not start here: {(directory / 'log').read_text()}")
            time.sleep(0.2)

    def __call__(self, *arguments: str) -> str:
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(
            ["docker", "-H", self._host, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait(60)
        self._log.close()


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with dockerd() as one:
        yield one


@contextlib.contextmanager
def dockerd(*options: str) -> Iterator[Docker]:
    """One that leaves nothing behind."""
    # Not below pytest's directory: dockerd's mounts are unmounted by itself, when it is stopped.
    directory = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/var/tmp"))
    daemon = Docker(directory, *options)
    try:
        yield daemon
    finally:
        daemon.stop()
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        left = [line.split()[4] for line in mounts.splitlines() if str(directory) in line]
        for place in reversed(left):
            subprocess.run(["umount", place], check=False)
        subprocess.run(["rm", "-r", "--one-file-system", str(directory)], check=False)


@pytest.fixture(scope="module")
def saved(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What docker save makes of an image that docker build made."""
    place = tmp_path_factory.mktemp("docker")
    root = place / "root"
    (root / "bin").mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin" / "busybox")
    for name in ("sh", "echo", "rm", "ln", "mkdir", "chmod"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "bin" / "sh").unlink()
    shutil.copy(busybox, root / "bin" / "sh")
    (root / "d" / "sub").mkdir(parents=True)
    for name in ("d/one", "d/two", "d/sub/deep"):
        (root / name).write_text(name)
    subprocess.run(["tar", "-C", root, "-cf", place / "root.tar", "."], check=True)
    docker("import", str(place / "root.tar"), "base:1")
    context = place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    docker("build", "--network", "none", "-t", "built:1", str(context))
    docker("tag", "built:1", "built:2")
    docker("save", "-o", str(place / "built.tar"), "built:1", "built:2", "base:1")
    return place / "built.tar"


def in_docker(docker: Docker, name: str, place: Path) -> bytes:
    """An image's tree by docker export."""
    container = docker("create", "--network", "none", name).strip()
    try:
        docker("export", "-o", str(place), container)
    finally:
        docker("rm", container)
    return place.read_bytes()


@pytest.mark.parametrize("driver", ["overlay2", "overlay", "vfs"])
def test_what_docker_saves_is_the_same_image_here(
    docker: Docker, saved: Path, tmp_path: Path, driver: str
) -> None:
    store = ImageStore(str(tmp_path / "data"), driver)
    try:
        with saved.open("rb") as stream:
            loaded = store.load(stream)
        names = [name for image in loaded for name in image.references]
        assert sorted(names) == ["base:1", "built:1", "built:2"]
        image = store.resolve("built:1")
        assert image.id == docker("image", "inspect", "-f", "{{.Id}}", "built:1").strip()
        assert image.config.labels == {"made": "by-dockerd"}
        assert "GREETING=hello" in image.config.env
        # The tree, file by file, against what docker itself shows of it.
        exported = in_docker(docker, "built:1", tmp_path / "export.tar")
        made = store.resolve(store.import_archive(io.BytesIO(exported)))
        for name, one in (("ours", image), ("theirs", made)):
            store.driver.create_container(name, one.chain)
        ours, theirs = (
            _files(listing(store.driver.mounts(name), str(tmp_path / "mnt")))
            for name in ("ours", "theirs")
        )
        assert ours == theirs
        store.driver.collect()
    finally:
        store.close()


def _files(text: str) -> list[str]:
    # docker create adds these to every container; times of directories change with them.
    added = ("dev", "etc", "proc", "sys", ".dockerenv")
    lines = []
    for line in text.splitlines():
        first, _, rest = line.partition(" ")
        path = rest.strip() if len(first) == 64 else first
        if path.removeprefix("./").split("/")[0] not in added:
            lines.append(line)
    return lines


def test_docker_loads_what_is_saved_here(docker: Docker, saved: Path, tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path / "data"))
    try:
        with saved.open("rb") as stream:
            store.load(stream)
        image = store.resolve("built:1")
        store.tag("built:1", "registry.test:5000/out:9")
        with (tmp_path / "ours.tar").open("wb") as out:
            store.save(["registry.test:5000/out", "base:1"], out)
    finally:
        store.close()
    docker("rmi", "-f", "built:1", "built:2", "base:1")
    shown = docker("load", "-i", str(tmp_path / "ours.tar"))
    assert "Loaded image: registry.test:5000/out:9" in shown
    assert "Loaded image: base:1" in shown
    found = docker("image", "inspect", "-f", "{{.Id}}", "registry.test:5000/out:9").strip()
    assert found == image.id
    run = ("run", "--rm", "--network", "none", "registry.test:5000/out:9")
    assert (
        docker(*run, "sh", "-c", "echo $GREETING; echo /d/*")
        == "hello\n/d/hard /d/sub /d/three /d/two\n"
    )


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2"])
def test_docker_loads_layers_however_they_are_kept_here(
    docker: Docker, store: ImageStore, tmp_path: Path, kind: str
) -> None:
    import bz2
    import gzip

    from backports import zstd

    packed = {
        "gzip": gzip.compress(BASE),
        "zstd": zstd.compress(BASE),
        "bzip2": bz2.compress(BASE),
    }
    image = store.import_archive(io.BytesIO(packed[kind]), f"kept:{kind}")
    with (tmp_path / "ours.tar").open("wb") as out:
        store.save([f"kept:{kind}"], out)
    assert f"Loaded image: kept:{kind}" in docker("load", "-i", str(tmp_path / "ours.tar"))
    assert docker("image", "inspect", "-f", "{{.Id}}", f"kept:{kind}").strip() == image
    docker("rmi", f"kept:{kind}")
    with (tmp_path / "ours.tar").open("rb") as stream:
        store.remove(f"kept:{kind}", used_by=lambda _: [])
        assert store.load(stream)[0].id == image


def skopeo(*arguments: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", *arguments], check=True, capture_output=True)


@pytest.fixture
def ours(store: ImageStore, tmp_path: Path) -> Path:
    """An archive saved here."""
    store.import_archive(io.BytesIO(BASE), "mine:3", ["CMD sh"])
    with (tmp_path / "mine.tar").open("wb") as out:
        store.save(["mine:3"], out)
    return tmp_path / "mine.tar"


def test_skopeo_reads_both_halves_of_an_archive(ours: Path, tmp_path: Path) -> None:
    skopeo("copy", f"docker-archive:{ours}:mine:3", f"oci:{tmp_path}/one:x")
    subprocess.run(["tar", "-C", tmp_path, "--one-top-level=two", "-xf", ours], check=True)
    skopeo("copy", f"oci:{tmp_path}/two:3", f"dir:{tmp_path}/three")
    assert (tmp_path / "three" / "manifest.json").exists()


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_an_oci_layout_made_by_skopeo_comes_in(
    store: ImageStore, ours: Path, tmp_path: Path, packing: str
) -> None:
    layout = tmp_path / "made"
    options = ("--format", "oci", "--dest-compress-format", packing)
    skopeo("copy", *options, f"docker-archive:{ours}", f"oci:{layout}:t")
    store.remove("mine:3", used_by=lambda _: ())
    (loaded,) = store.load_layout(str(layout))
    assert loaded.references == ("made:t",)
    image = store.resolve("made:t")
    assert image.config.cmd == ("/bin/sh", "-c", "sh")
    blob, _, size = store.layers.blob_of(image.diff_ids[0])
    assert size == len(BASE)
    assert blob != image.diff_ids[0]
    assert os.path.exists(store.driver.layer_graph(image.chain)["UpperDir"] + "/etc/passwd")


def test_an_oci_layout_made_by_umoci_comes_in(store: ImageStore, tmp_path: Path) -> None:
    layout = tmp_path / "umoci"
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "made").write_text("by umoci")
    steps = (
        ("init", "--layout", str(layout)),
        ("new", "--image", f"{layout}:latest"),
        ("insert", "--image", f"{layout}:latest", str(root / "etc"), "/etc"),
        ("insert", "--image", f"{layout}:latest", "--whiteout", "/etc/gone"),
        ("config", "--image", f"{layout}:latest", "--config.cmd", "/bin/true"),
    )
    for step in steps:
        subprocess.run(["umoci", *step], check=True, capture_output=True)
    (loaded,) = store.load_layout(str(layout))
    assert loaded.references == ("umoci:latest",)
    image = store.resolve("umoci")
    assert image.config.cmd == ("/bin/true",)
    assert len(image.chain) == 2
    store.driver.create_container("c", image.chain)
    shown = listing(store.driver.mounts("c"), str(tmp_path / "mnt"))
    assert "etc/made f" in shown


def test_both_clients_run_containers_of_each_kind_of_image(saved: Path, tmp_path: Path) -> None:
    """The passage from end to end: this machine, a root file system's tar, dockerd's archive,
    skopeo's layout and umoci's."""
    sampan = str(Path(sys.executable).with_name("sampan"))
    base = saved.parent / "root.tar"
    layouts = {name: tmp_path / name for name in ("skopeo", "umoci")}
    skopeo("copy", f"docker-archive:{saved}:built:1", f"oci:{layouts['skopeo']}:t")
    made = f"{layouts['umoci']}:t"
    for step in (
        ("init", "--layout", str(layouts["umoci"])),
        ("new", "--image", made),
        ("insert", "--image", made, str(saved.parent / "root"), "/"),
        ("config", "--image", made, "--config.env", "PATH=/bin", "--config.env", "GREETING=hello"),
    ):
        subprocess.run(["umoci", *step], check=True, capture_output=True)
    (tmp_path / "daemon").mkdir()
    daemon = Daemon(tmp_path / "daemon")
    try:
        daemon.start()
        for client in (DOCKER, sampan):
            for words in (
                ("import", "-c", "ENV GREETING=hello", str(base), "tar:1"),
                ("load", "-i", str(saved)),
            ):
                done = daemon.docker(*words, program=client)
                assert done.returncode == 0, done.stderr
            for name, layout in layouts.items():
                archive = tmp_path / f"{name}.tar"
                subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
                # Docker's client takes no directory. The tag of a layout alone is no name.
                done = daemon.docker("load", "-i", str(archive), program=client)
                loaded = done.stdout.strip().rpartition(" ")[2]
                assert done.returncode == 0, done.stderr
                assert daemon.docker("tag", loaded, f"{name}:1", program=client).returncode == 0
            for image in ("host", "tar:1", "built:1", "skopeo:1", "umoci:1"):
                run = ("run", "--rm", "--network", "none", "-e", "MORE=x", image)
                script = "echo ${GREETING:-hello} $MORE; exit 3"
                done = daemon.docker(*run, "sh", "-c", script, program=client)
                said = (image, done.returncode, done.stdout, done.stderr)
                assert said == (image, 3, "hello x\n", "")
            daemon.remove_all()
            for image in ("tar:1", "built:1", "built:2", "base:1", "skopeo:1", "umoci:1"):
                assert daemon.docker("rmi", image, program=client).returncode == 0, image
    finally:
        daemon.close()
