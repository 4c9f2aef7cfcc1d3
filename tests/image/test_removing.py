"""Removing and naming images, as Docker decides it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from sampan.errors import Conflict, InvalidArgument, NotFound
from sampan.image.removing import User
from sampan.oci import reference as references
from tests.image.archives import BASE, ONE, configuration, docker_save, image_id

if TYPE_CHECKING:
    from sampan.image.store import ImageStore

pytestmark = pytest.mark.root

CONFIG = configuration([BASE, ONE])
ID = image_id(CONFIG)
RUNNING = User("r" * 64, running=True)
STOPPED = User("s" * 64, running=False)


def load(store: ImageStore, *names: str) -> None:
    store.load(io.BytesIO(docker_save([BASE, ONE], list(names), CONFIG)))


def remove(store: ImageStore, name: str, *users: User, force: bool = False) -> list[str]:
    done = store.remove(name, force=force, used_by=lambda _: users)
    return [f"-{one.untagged}" if one.untagged else f"!{one.deleted}" for one in done]


def deletions(store: ImageStore) -> list[str]:
    chain = store.resolve(ID).chain
    return [f"!{ID}", f"!{chain[1]}", f"!{chain[0]}"]


def test_a_name_goes_and_the_image_with_its_last_one(store: ImageStore) -> None:
    load(store, "a:1", "a:2")
    everything = deletions(store)
    assert remove(store, "a:1") == ["-a:1"]
    assert store.resolve("a:2").id == ID
    assert remove(store, "a:2") == ["-a:2", *everything]
    with pytest.raises(NotFound, match=r"^No such image: a:2$"):
        store.resolve("a:2")
    assert store.driver.layers() == []
    assert list(store.blobs.digests()) == []


def test_by_id_the_image_goes_with_its_name(store: ImageStore) -> None:
    load(store, "a:1")
    everything = deletions(store)
    assert remove(store, ID[7:19]) == ["-a:1", *everything]


def test_an_image_without_a_name_goes_by_id(store: ImageStore) -> None:
    load(store)
    everything = deletions(store)
    assert remove(store, ID) == everything
    assert store.driver.layers() == []


def test_several_names_need_force_by_id(store: ImageStore) -> None:
    load(store, "a:1", "b:1")
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is referenced in multiple"):
        remove(store, ID)
    everything = deletions(store)
    assert remove(store, ID, force=True) == ["-a:1", "-b:1", *everything]


def test_layers_of_other_images_stay(store: ImageStore) -> None:
    load(store, "a:1")
    store.load(io.BytesIO(docker_save([BASE], ["base:1"])))
    top = store.resolve("a:1").chain[1]
    assert remove(store, "a:1") == ["-a:1", f"!{ID}", f"!{top}"]
    assert store.driver.has_layer(store.resolve("base:1").chain[0])


def test_an_image_that_goes_before_it_is_saved_is_not_found(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers are another's too; an archive without its configuration would be none."""
    load(store, "a:1")
    layers = [BASE, ONE]
    store.load(io.BytesIO(docker_save(layers, ["b:1"], configuration(layers, User="7"))))
    find = store._chosen

    def gone(name: str) -> object:
        found = find(name)
        remove(store, "a:1")
        return found

    monkeypatch.setattr(store, "_chosen", gone)
    out = io.BytesIO()
    with pytest.raises(NotFound, match="No such image"):
        store.save(["a:1"], out)
    assert out.getvalue() == b""


def test_layers_below_a_container_stay_until_it_goes(store: ImageStore) -> None:
    load(store, "a:1")
    chain = store.resolve("a:1").chain
    store.driver.create_container("c", chain)
    assert remove(store, "a:1", STOPPED, force=True) == ["-a:1", f"!{ID}"]
    assert store.driver.mounts("c")
    store.driver.remove_container("c")
    assert store.layers.collect() == [chain[1], chain[0]]


@pytest.mark.parametrize(
    ("name", "user", "force", "sentence"),
    [
        ("a:1", STOPPED, False, r"unable to remove repository reference \"a:1\" \(must force\)"),
        ("a:1", RUNNING, False, r"unable to remove repository reference \"a:1\" \(must force\)"),
        (ID, STOPPED, False, r"\(must be forced\) - image is being used by stopped .* s{12}$"),
        (ID, RUNNING, False, r"\(cannot be forced\) - image is being used by running .* r{12}$"),
        (ID, RUNNING, True, r"\(cannot be forced\) - image is being used by running .* r{12}$"),
    ],
)
def test_what_a_container_uses_is_kept(
    store: ImageStore, name: str, user: User, force: bool, sentence: str
) -> None:
    load(store, "a:1")
    with pytest.raises(Conflict, match=f"^conflict: .*{sentence}"):
        remove(store, name, user, force=force)
    assert store.resolve("a:1").id == ID


def test_force_takes_the_name_but_not_the_image_of_a_running_container(store: ImageStore) -> None:
    load(store, "a:1")
    assert remove(store, "a:1", RUNNING, force=True) == ["-a:1"]
    assert store.resolve(ID).references == ()


def test_a_used_image_can_lose_a_name_that_is_not_its_last(store: ImageStore) -> None:
    load(store, "a:1", "a:2")
    assert remove(store, "a:1", RUNNING) == ["-a:1"]


def test_tags_are_names_too(store: ImageStore) -> None:
    load(store, "a:1")
    store.tag("a:1", "registry.test/b")
    store.tag(ID[:20], "c:2")
    assert store.resolve(ID).references == ("a:1", "c:2", "registry.test/b:latest")
    assert store.resolve("registry.test/b").last_tag > 0
    with pytest.raises(NotFound, match=r"^No such image: missing:latest$"):
        store.tag("missing", "x:1")
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        store.tag("a:1", "X:1")
    with pytest.raises(InvalidArgument, match="digest reference"):
        store.tag("a:1", f"x@{ID}")
    with pytest.raises(InvalidArgument, match="ambiguous tag using digest algorithm"):
        store.tag("a:1", "sha256:1")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "^No such image: missing:latest$"),
        ("missing:1", "^No such image: missing:1$"),
        ("deadbeef", "^No such image: deadbeef:latest$"),
        (f"a@{ID}", "^No such image: a@sha256:"),
        ("sha256:dead", "^No such image: sha256:dead$"),
        ("sha256:" + "0" * 64, "^No such image: sha256:0{64}$"),
    ],
)
def test_what_is_not_there_is_named_as_docker_does(
    store: ImageStore, name: str, sentence: str
) -> None:
    with pytest.raises(NotFound, match=sentence):
        store.resolve(name)


def test_an_ambiguous_beginning_of_an_id_is_refused(store: ImageStore) -> None:
    images: dict[str, str] = {}
    number = 0
    while True:
        config = configuration([BASE], Labels={"n": str(number)})
        number += 1
        first = image_id(config)[7]
        store.load(io.BytesIO(docker_save([BASE], [f"n:{number}"], config)))
        if first in images:
            break
        images[first] = image_id(config)
    with pytest.raises(InvalidArgument, match="Multiple IDs found with provided prefix"):
        store.resolve(first)
    assert store.resolve(images[first][:40]).id == images[first]


def test_lists_are_filtered(store: ImageStore) -> None:
    for name, created, label in (("a/x:1", 1, "k=v"), ("a/y:1", 2, "k=w"), ("b:1", 3, "z=")):
        key, _, value = label.partition("=")
        config = configuration([BASE], Labels={key: value}).replace(
            b"2024", str(2020 + created).encode()
        )
        store.load(io.BytesIO(docker_save([BASE], [name], config)))
    store.load(io.BytesIO(docker_save([ONE])))

    def names(**filters: list[str]) -> list[str]:
        return [name for image in store.list(filters) for name in image.references]

    assert names() == ["b:1", "a/y:1", "a/x:1", "host:latest"]
    assert names(reference=["a/*"]) == ["a/y:1", "a/x:1"]
    assert names(reference=["*"]) == ["b:1", "host:latest"]
    assert names(reference=["b", "a/[xz]:1"]) == ["b:1", "a/x:1"]
    assert names(label=["k"]) == ["a/y:1", "a/x:1"]
    assert names(label=["k=v"]) == ["a/x:1"]
    assert names(label=["k=v", "z"]) == []
    assert names(before=["a/y:1"]) == ["a/x:1"]
    assert names(since=["a/y:1"]) == ["b:1", "host:latest"]
    assert len(store.list({"dangling": ["true"]})) == 1
    assert names(dangling=["false"]) == ["b:1", "a/y:1", "a/x:1", "host:latest"]
    with pytest.raises(InvalidArgument, match="invalid filter 'colour'"):
        names(colour=["red"])
    with pytest.raises(InvalidArgument, match='"maybe" is not true or false'):
        names(dangling=["maybe"])
    with pytest.raises(NotFound):
        names(before=["missing"])


def child(store: ImageStore, parent: str, number: int) -> str:
    """An image as a commit makes it."""
    config = configuration([BASE, ONE], Labels={"n": str(number)})
    store.load(io.BytesIO(docker_save([BASE, ONE], None, config)))
    store.database.execute("UPDATE images SET parent = ? WHERE id = ?", (parent, image_id(config)))
    return image_id(config)


def test_an_image_that_others_are_built_on_stays(store: ImageStore) -> None:
    load(store, "a:1")
    child(store, ID, 1)
    for force in (False, True):
        with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child"):
            remove(store, ID, force=force)
    assert remove(store, "a:1") == ["-a:1"]
    assert store.resolve(ID).references == ()


def test_nameless_parents_go_with_the_last_that_needs_them(store: ImageStore) -> None:
    load(store)
    middle = child(store, ID, 1)
    top = child(store, middle, 2)
    assert remove(store, top)[:3] == [f"!{top}", f"!{middle}", f"!{ID}"]
    assert [image.id for image in store.list() if not image.system] == []


def test_parents_with_a_name_a_child_or_a_container_stay(store: ImageStore) -> None:
    load(store, "a:1")
    one, other = child(store, ID, 1), child(store, ID, 2)
    top = child(store, one, 3)
    done = store.remove(top, used_by=lambda i: [STOPPED] if i == one else [])
    assert [item.deleted for item in done] == [top]
    assert [item.deleted for item in store.remove(one, used_by=lambda _: [])] == [one]
    assert store.remove(other, prune=False, used_by=lambda _: [])[0].deleted == other
    assert store.resolve("a:1").id == ID


def test_digests_of_a_repository_go_with_its_last_tag(store: ImageStore) -> None:
    load(store, "a:1", "b:1")
    digest = f"sha256:{'d' * 64}"
    with store.database.transaction():
        store.records.tag(ID, [references.parse(f"{name}@{digest}") for name in ("a", "b")])
    assert remove(store, "a:1") == ["-a:1", f"-a@{digest}"]
    assert store.resolve(ID).digests == (f"b@{digest}",)
    assert remove(store, ID)[:2] == ["-b:1", f"-b@{digest}"]


def test_pruning_takes_what_has_no_name_and_with_all_what_has_no_user(store: ImageStore) -> None:
    from sampan.image.pruning import prune

    load(store, "a:1")
    nameless = child(store, "", 1)
    labelled = configuration([ONE], Labels={"keep": "1"})
    store.load(io.BytesIO(docker_save([ONE], None, labelled)))

    def pruned(used: str = "", **filters: list[str]) -> list[str]:
        found = prune(store, filters, lambda i: [STOPPED] if i == used else [])
        return [item.untagged or item.deleted or "" for item in found.removals]

    assert pruned(label=["nothing"]) == []
    assert pruned(until=["2020-01-01T00:00:00Z"]) == []
    assert pruned(until=["876000h"]) == []
    assert pruned(used=nameless, **{"label!": ["keep"]}) == []
    assert pruned(used="", **{"label!": ["keep"]}) == [nameless]
    assert pruned()[0] == image_id(labelled)
    assert pruned(dangling=["true"]) == []
    assert pruned(used=ID, dangling=["false"]) == []
    found = prune(store, {"dangling": ["false"]}, lambda _: [])
    assert [item.untagged for item in found.removals if item.untagged] == ["a:1"]
    assert found.reclaimed == len("#!") + len("root") + len("1")
    with pytest.raises(InvalidArgument, match="invalid filter 'colour'"):
        pruned(colour=["red"])
    with pytest.raises(InvalidArgument, match="neither a time nor a duration"):
        pruned(until=["soon"])
