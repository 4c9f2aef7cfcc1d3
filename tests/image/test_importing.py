"""A tar of a root file system becomes an image; Dockerfile instructions set what it does."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import Corrupt, InvalidArgument
from sampan.image.instructions import apply_changes
from sampan.oci import platform as platforms
from sampan.oci.image import Healthcheck, ImageConfig
from tests.image.archives import BASE, image_id, sha256
from tests.image.test_loading import is_empty

if TYPE_CHECKING:
    from sampan.image.store import ImageStore

MINUTE = 60 * 10**9


@pytest.mark.root
def test_a_root_file_system_becomes_an_image(store: ImageStore) -> None:
    made = store.import_archive(
        io.BytesIO(gzip.compress(BASE)), "mine", ["CMD sh", "ENV A=b"], "from a test"
    )
    image = store.resolve("mine:latest")
    assert image.id == made
    assert image.config.cmd == ("/bin/sh", "-c", "sh")
    assert image.config.env == ("A=b",)
    assert image.document.history[0].comment == "from a test"
    assert image.document.architecture == platforms.machine().architecture
    assert image.diff_ids == (f"sha256:{sha256(BASE)}",)
    assert store.blobs.has(made)
    assert image_id(store.blobs.read(made)) == made


@pytest.mark.root
def test_an_image_needs_no_name_and_can_be_for_another_machine(store: ImageStore) -> None:
    made = store.import_archive(io.BytesIO(BASE), platform="linux/arm64")
    image = store.resolve(made)
    assert (image.references, image.document.variant) == ((), "v8")


@pytest.mark.root
@pytest.mark.parametrize(
    ("data", "reference", "changes", "kind", "sentence"),
    [
        (b"", "x", [], InvalidArgument, "empty"),
        (BASE[:1000], "x", [], Corrupt, "truncated"),
        (b"nonsense" * 1000, "x", [], Corrupt, "tar"),
        (gzip.compress(BASE)[:-20], "x", [], Corrupt, "gzip"),
        (BASE, "X", [], InvalidArgument, "lowercase"),
        (BASE, "host", [], InvalidArgument, "reserved"),
        (BASE, "x", ["RUN true"], InvalidArgument, "RUN is not one of"),
    ],
)
def test_a_bad_import_leaves_nothing(
    store: ImageStore,
    *,
    data: bytes,
    reference: str,
    changes: list[str],
    kind: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        store.import_archive(io.BytesIO(data), reference, changes)
    assert is_empty(store)


def archive(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """BASE and one member more, whose name is written as it is."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        if kind == tarfile.LNKTYPE:
            tar.addfile(tarfile.TarInfo("first"))
        member = tarfile.TarInfo("x")
        member.name, member.type, member.linkname = name, kind, link
        member.devmajor, member.devminor = 1, 3
        tar.addfile(member)
        if kind == tarfile.CHRTYPE:
            tar.addfile(tarfile.TarInfo(f"{name}/below"))
    return whole.getvalue()


@pytest.mark.root
@pytest.mark.parametrize(
    ("data", "sentences"),
    [
        (archive("/etc/cron.d/x"), ("/etc/cron.d/x", "absolute")),
        (archive("//etc/x"), ("//etc/x", "absolute")),
        (archive("../x"), ("../x", "..")),
        (archive("a/../../x"), ("a/../../x", "..")),
        (archive("hard", tarfile.LNKTYPE, "/first"), ("hard", "/first", "absolute")),
        (archive("hard", tarfile.LNKTYPE, "../../etc/passwd"), ("hard", "../../etc/passwd")),
        (archive("hard", tarfile.LNKTYPE, "etc/shadow"), ("hard", "etc/shadow", "not in")),
        (archive("dev", tarfile.CHRTYPE), ("dev/below", "dev is not a directory")),
    ],
)
def test_a_member_that_is_not_of_the_root_file_system_is_named(
    store: ImageStore, data: bytes, sentences: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        store.import_archive(io.BytesIO(data), "x")
    for sentence in sentences:
        assert sentence in caught.value.message
    assert is_empty(store)


@pytest.mark.root
def test_a_link_may_say_anything_and_leads_nowhere_outside(store: ImageStore) -> None:
    store.import_archive(io.BytesIO(archive("way", tarfile.SYMTYPE, "/../../etc")), "x")
    assert store.resolve("x").references == ("x:latest",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (['CMD ["a", "b c"]'], {"cmd": ("a", "b c")}),
        (["cmd a b"], {"cmd": ("/bin/sh", "-c", "a b")}),
        (["ENTRYPOINT /x --y"], {"entrypoint": ("/bin/sh", "-c", "/x --y")}),
        (['ENV A=1 B="two words"', "ENV A 3 4"], {"env": ("A=3 4", "B=two words")}),
        (["LABEL a=b c='d e'"], {"labels": {"a": "b", "c": "d e"}}),
        (
            ["EXPOSE 80 53/udp 90-91"],
            {"exposed_ports": {"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}}},
        ),
        (["USER 1:2", "STOPSIGNAL SIGINT"], {"user": "1:2", "stop_signal": "SIGINT"}),
        (['VOLUME ["/a b"]', "VOLUME /c /d"], {"volumes": {"/a b": {}, "/c": {}, "/d": {}}}),
        (["WORKDIR /a", "WORKDIR b"], {"working_dir": "/a/b"}),
        (["ONBUILD RUN x"], {"on_build": ("RUN x",)}),
        (["HEALTHCHECK NONE"], {"healthcheck": Healthcheck(test=("NONE",))}),
        (
            ["HEALTHCHECK --interval=1m30s --retries=2 CMD curl x"],
            {
                "healthcheck": Healthcheck(
                    test=("CMD-SHELL", "curl x"), interval=MINUTE * 3 // 2, retries=2
                )
            },
        ),
        (["CMD a \\\n b\nUSER x"], {"cmd": ("/bin/sh", "-c", "a   b"), "user": "x"}),
    ],
)
def test_instructions_change_the_configuration(
    changes: list[str], expected: dict[str, Any]
) -> None:
    assert apply_changes(ImageConfig(), changes) == ImageConfig(**expected)


@pytest.mark.parametrize(
    "change",
    [
        "FROM x",
        "COPY a b",
        "CMD",
        "ENV A",
        "ENV =x",
        "LABEL a='b",
        "EXPOSE http",
        "EXPOSE 70000",
        "EXPOSE 90-80",
        "ONBUILD FROM x",
        "ONBUILD ONBUILD RUN x",
        "HEALTHCHECK x",
        "HEALTHCHECK --colour=red CMD x",
        "HEALTHCHECK --interval=soon CMD x",
        "HEALTHCHECK --interval=10ns CMD x",
        'VOLUME [""]',
    ],
)
def test_an_instruction_that_cannot_be_is_named(change: str) -> None:
    with pytest.raises(InvalidArgument, match=change.split(maxsplit=1)[0]):
        apply_changes(ImageConfig(), [change])
