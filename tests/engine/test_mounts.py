"""What a request says of mounts, read; where it is wrong, in the words of dockerd."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine.container import ContainerRecord, UserMount
from sampan.engine.mounts import Reader, Wanted
from sampan.engine.reading import read_create
from sampan.errors import InvalidArgument, NotFound, NotSupported, SampanError

DATA_ROOT = "/var/lib/sampan"


def other(reference: str) -> ContainerRecord:
    """The one container there is: ``store``."""
    if reference != "store":
        raise NotFound(f"No such container: {reference}")
    request = read_create({"Image": "i"})
    return ContainerRecord(
        id="0" * 64,
        name="store",
        created=1,
        image_id="sha256:0",
        image_name="i",
        driver="overlay2",
        config=request.config,
        host_config=request.host_config,
        args=("true",),
        mounts=(
            UserMount(type="volume", name="data", source="/v/data", destination="/data",
                      options=("rbind", "rslave"), driver="local", mode="z"),
            UserMount(type="volume", name="f" * 64, source="/v/f", destination="/anonymous",
                      options=("rbind", "rslave"), driver="local", anonymous=True),
            UserMount(type="bind", source="/etc", destination="/ro",
                      options=("rbind", "rprivate", "ro", "rro"), writable=False, mode="ro"),
            UserMount(type="tmpfs", destination="/scratch", options=("noexec",), listed=False),
        ),
    )  # fmt: skip


def wanted(deep: bool = True, volumes: Any = None, **host: Any) -> list[Wanted]:
    request = read_create({"Image": "i", "Volumes": volumes, "HostConfig": host})
    return Reader(other, DATA_ROOT, deep=deep).read(request.config, request.host_config)


def one(deep: bool = True, **host: Any) -> UserMount:
    ((mount, _, _),) = wanted(deep, **host)
    return mount


@pytest.mark.parametrize(
    ("text", "options", "writable"),
    [
        ("/a:/b", ("rbind", "rprivate"), True),
        ("/a:/b:ro", ("rbind", "rprivate", "ro", "rro"), False),
        ("/a:/b:rslave,ro", ("rbind", "rslave", "ro", "rro"), False),
        ("/a:/b:z", ("rbind", "rprivate"), True),
        ("/a:/b:ro,Z,cached,shared", ("rbind", "shared", "ro", "rro"), False),
        ("/a//b/:/c/../d", ("rbind", "rprivate"), True),
        ("/:/host", ("rbind", "rslave"), True),
        (f"{DATA_ROOT}/volumes:/v", ("rbind", "rslave"), True),
    ],
)
def test_binds_are_read(text: str, options: tuple[str, ...], writable: bool) -> None:
    mount = one(Binds=[text])
    assert (mount.options, mount.writable, mount.type) == (options, writable, "bind")
    assert mount.make_source
    if "//" in text:
        assert (mount.source, mount.destination) == ("/a/b", "/d")


def test_before_api_1_44_read_only_was_for_the_top_only() -> None:
    assert one(deep=False, Binds=["/a:/b:ro"]).options == ("rbind", "rprivate", "ro")
    mount = {"Type": "bind", "Source": "/etc", "Target": "/b", "ReadOnly": True}
    assert one(deep=False, Mounts=[mount]).options == ("rbind", "rprivate", "ro")
    forced = {**mount, "BindOptions": {"ReadOnlyForceRecursive": True}}
    assert one(deep=False, Mounts=[forced]).options == ("rbind", "rprivate", "ro", "rro")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid volume specification: ''"),
        (":/x", "invalid volume specification: ':/x'"),
        ("/tmp:", "invalid volume specification: '/tmp:'"),
        ("a:/b:c:d", "invalid volume specification: 'a:/b:c:d'"),
        ("/tmp:ro", "invalid volume specification: '/tmp:ro'"),
        ("/tmp:/x:foo", "invalid mode: foo"),
        ("/tmp:/x:ro,rw", "invalid mode: ro,rw"),
        (
            "/tmp:x",
            "invalid volume specification: '/tmp:x': invalid mount config for type \"bind\": "
            "invalid mount path: 'x' mount path must be absolute",
        ),
        (
            "a",
            "invalid volume specification: 'a': invalid mount config for type \"volume\": invalid "
            "mount path: 'a' mount path must be absolute",
        ),
        (
            "/tmp:/",
            "invalid volume specification: '/tmp:/': invalid mount config for type \"bind\": "
            "invalid specification: destination can't be '/'",
        ),
        (
            "/tmp:/x:nocopy",
            "invalid volume specification: '/tmp:/x:nocopy': invalid mount config for type "
            '"bind": field VolumeOptions must not be specified',
        ),
        (
            "v1:/x:rshared",
            "invalid volume specification: 'v1:/x:rshared': invalid mount config for type "
            '"volume": field BindOptions must not be specified',
        ),
        (
            "tmp/x:/x",
            'create tmp/x: "tmp/x" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path",
        ),
        (
            "/:/host:private",
            'invalid mount config: must use either propagation mode "rslave" or "rshared" when '
            f'mount source is within the daemon root, daemon root: "{DATA_ROOT}", bind mount '
            'source: "/", propagation: "private"',
        ),
    ],
)
def test_bad_binds_are_refused_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        wanted(Binds=[text])
    assert caught.value.message.removeprefix(
        f"invalid volume specification: '{text}': invalid mount config for type \"bind\": "
    ) == words.removeprefix(
        f"invalid volume specification: '{text}': invalid mount config for type \"bind\": "
    )


def test_volumes_are_read() -> None:
    (named,) = wanted(Binds=["data:/d:ro,nocopy"], VolumeDriver="local")
    assert named.volume is not None
    assert (named.volume.name, named.volume.driver, named.volume.copy) == ("data", "local", False)
    assert (named.mount.writable, named.mount.mode) == (False, "ro,nocopy")
    (anonymous,) = wanted(volumes={"/data": {}})
    assert anonymous.volume is not None and anonymous.declared
    assert (anonymous.mount.anonymous, anonymous.mount.mode) == (True, "")
    mount = {
        "Type": "volume", "Source": "data", "Target": "/d", "VolumeOptions": {
            "NoCopy": True, "Labels": {"a": "b"}, "Subpath": "x/y",
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}},
        },
    }  # fmt: skip
    (full,) = wanted(Mounts=[mount])
    assert full.volume is not None
    assert full.volume.options == {"type": "tmpfs", "device": "tmpfs"}
    assert full.volume.labels == {"a": "b"}
    assert (full.volume.copy, full.mount.options[-1]) == (False, "subpath=x/y")


@pytest.mark.parametrize(
    ("options", "read_only", "words"),
    [
        ({}, False, ("rbind", "rprivate")),
        ({"NonRecursive": True}, False, ("bind", "rprivate")),
        ({"NonRecursive": True}, True, ("bind", "rprivate", "ro")),
        ({"ReadOnlyNonRecursive": True}, True, ("rbind", "rprivate", "ro")),
        ({"ReadOnlyForceRecursive": True}, True, ("rbind", "rprivate", "ro", "rro")),
        ({"Propagation": "rshared"}, False, ("rbind", "rshared")),
    ],
)
def test_binds_options_are_read(
    options: dict[str, Any], read_only: bool, words: tuple[str, ...]
) -> None:
    mount = {"Type": "bind", "Source": "/etc", "Target": "/x", "ReadOnly": read_only}
    found = one(Mounts=[{**mount, "BindOptions": options}])
    assert (found.options, found.writable, found.make_source) == (words, not read_only, False)


def test_a_source_may_be_made_when_the_request_says_so() -> None:
    mount = {"Type": "bind", "Source": "/nowhere", "Target": "/x"}
    assert one(Mounts=[{**mount, "BindOptions": {"CreateMountpoint": True}}]).make_source


BIND = {"Type": "bind", "Source": "/etc", "Target": "/x"}


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"Type": "bind", "Source": "/nope", "Target": "/x"},
         "bind source path does not exist: /nope"),
        ({"Type": "bind", "Source": "", "Target": "/x"}, "field Source must not be empty"),
        ({"Type": "bind", "Source": "/etc"}, "field Target must not be empty"),
        ({**BIND, "Target": "/"}, "invalid specification: destination can't be '/'"),
        ({**BIND, "Target": "x"}, "invalid mount path: 'x' mount path must be absolute"),
        ({**BIND, "Source": "etc"}, "invalid mount path: 'etc' mount path must be absolute"),
        ({"Type": "foo", "Target": "/x"}, "mount type unknown"),
        ({"Target": "/x"}, "mount type unknown"),
        ({**BIND, "BindOptions": {"Propagation": "zzz"}}, "invalid propagation mode: zzz"),
        ({**BIND, "VolumeOptions": {}}, "field VolumeOptions must not be specified"),
        ({**BIND, "TmpfsOptions": {}}, "field TmpfsOptions must not be specified"),
        ({**BIND, "Consistency": "zzz"}, "invalid consistency: zzz"),
        ({**BIND, "BindOptions": {"ReadOnlyNonRecursive": True}},
         "ReadOnlyNonRecursive and ReadOnlyForceRecursive need ReadOnly to be set"),
        ({**BIND, "ReadOnly": True,
          "BindOptions": {"ReadOnlyForceRecursive": True, "Propagation": "rslave"}},
         "ReadOnlyForceRecursive needs the propagation rprivate: what is mounted there later would "
         "not be read-only"),
        ({"Type": "volume", "Target": "/x", "ReadOnly": True},
         "must not set ReadOnly mode when using anonymous volumes"),
        ({"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "a"}},
         "must not set Subpath when using anonymous volumes"),
        ({"Type": "volume", "Source": "data", "Target": "/x",
          "VolumeOptions": {"Subpath": "../a"}},
         "subpath must be a relative path within the volume"),
        ({"Type": "volume", "Target": "/x", "BindOptions": {}},
         "field BindOptions must not be specified"),
        ({"Type": "image", "Target": "/x"}, "field Source must not be empty"),
        ({"Type": "image", "Source": "i", "Target": "/x", "ImageOptions": {"Subpath": "/a"}},
         "subpath must be a relative path within the image"),
        ({"Type": "tmpfs", "Source": "v", "Target": "/x"}, "field Source must not be specified"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": -1}},
         "SizeBytes -1 is less than 0"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Mode": 99999}},
         "Mode 99999 is not a file mode (a decimal number)"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["nonsense"]]}},
         'invalid tmpfs option ["nonsense"]'),
    ],
    ids=str,
)  # fmt: skip
def test_bad_mounts_are_refused_in_dockers_words(mount: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        wanted(Mounts=[mount])
    kind = mount.get("Type", "")
    assert caught.value.message == f'invalid mount config for type "{kind}": {words}'


@pytest.mark.parametrize("kind", ["npipe", "cluster"])
def test_mounts_of_other_worlds_are_refused_by_name(kind: str) -> None:
    with pytest.raises(NotSupported, match=kind):
        wanted(Mounts=[{"Type": kind, "Source": "x", "Target": "/x"}])


def test_mounts_of_another_container_come_along() -> None:
    found = {item.mount.destination: item for item in wanted(VolumesFrom=["store"])}
    assert set(found) == {"/data", "/anonymous", "/ro"}
    data = found["/data"]
    assert (data.mount.name, data.mount.source, data.mount.mode) == ("data", "/v/data", "")
    assert data.volume is None  # nothing is copied into it
    assert found["/anonymous"].mount.anonymous
    read_only = {item.mount.destination: item.mount for item in wanted(VolumesFrom=["store:ro"])}
    assert not any(mount.writable for mount in read_only.values())
    assert read_only["/data"].options == ("rbind", "rprivate", "ro", "rro")
    assert not one_of(wanted(VolumesFrom=["store:rw"]), "/ro").writable


def one_of(found: list[Wanted], place: str) -> UserMount:
    return next(item.mount for item in found if item.mount.destination == place)


def test_ones_own_mounts_go_before_anothers_and_both_before_the_images() -> None:
    found = wanted(
        VolumesFrom=["store"], Binds=["/etc:/data"], volumes={"/data": {}, "/ro": {}, "/new": {}}
    )
    assert one_of(found, "/data").type == "bind"
    assert one_of(found, "/ro").type == "bind"
    assert one_of(found, "/new").type == "volume"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "volumes-from specification cannot be an empty string"),
        ("nobody", "No such container: nobody"),
        ("store:foo", "invalid mode: foo"),
        ("store:nocopy", "invalid mode: nocopy"),
    ],
)
def test_bad_volumes_from_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        wanted(VolumesFrom=[text])


def test_two_at_one_place_are_refused() -> None:
    with pytest.raises(SampanError, match="Duplicate mount point: /x"):
        wanted(Binds=["/etc:/x"], Tmpfs={"/x": ""})
    with pytest.raises(SampanError, match="Duplicate mount point: /x"):
        wanted(Mounts=[BIND, {"Type": "tmpfs", "Target": "/x/"}])


def test_parents_come_before_children() -> None:
    found = wanted(Binds=["/etc:/a/b/c", "/etc:/a"], Tmpfs={"/a/b": ""})
    assert [item.mount.destination for item in found] == ["/a", "/a/b", "/a/b/c"]
