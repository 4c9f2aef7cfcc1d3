"""Image names are read as Docker reads them."""

from __future__ import annotations

import pytest

from sampan.errors import InvalidArgument
from sampan.oci import reference as references

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/busybox:x", "docker.io/library/busybox:x", "busybox:x"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("someone/thing:v1", "docker.io/someone/thing:v1", "someone/thing:v1"),
        ("localhost/thing", "localhost/thing", "localhost/thing"),
        ("localhost:5000/thing:v1", "localhost:5000/thing:v1", "localhost:5000/thing:v1"),
        ("registry.test:443/a/b/c", "registry.test:443/a/b/c", "registry.test:443/a/b/c"),
        ("UPPER/thing", "UPPER/thing", "UPPER/thing"),
        ("[::1]:5000/thing", "[::1]:5000/thing", "[::1]:5000/thing"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"a.b/c:t@{DIGEST}", f"a.b/c:t@{DIGEST}", f"a.b/c:t@{DIGEST}"),
        ("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f", "a__b/c-d--e.f"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
    ],
)
def test_names_are_completed_and_shortened(text: str, canonical: str, familiar: str) -> None:
    parsed = references.parse(text)
    assert (str(parsed), parsed.familiar) == (canonical, familiar)
    assert references.parse(str(parsed)) == parsed
    assert references.parse(parsed.familiar) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Busybox",
        "docker.io/Busybox",
        "a" * 64,
        "busybox:",
        "busybox:-x",
        "busybox:" + "t" * 129,
        "busybox@sha256:abc",
        "busybox@md5:" + "a" * 32,
        "-busybox",
        "busybox-",
        "a..b/c",
        "a/_b",
        "a//b",
        "/a",
        "a/",
        "a b",
        "exa_mple.com/x",
        "host:port/x",
        "https://registry.test/x",
        "x/" + "y" * 254,
        "a___b",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid reference format"):
        references.parse(text)


def test_upper_case_has_its_own_sentence() -> None:
    with pytest.raises(InvalidArgument, match=r"repository name \(Busybox\) must be lowercase"):
        references.parse("Busybox")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nope: x", '" x" is not a tag'),
        ("busybox@sha256:abc", '"sha256:abc" is not a digest'),
        ("host.test:port/x:1", '"host.test:port" is not a registry'),
        ("a..b/c:1", '"a..b" is not a registry'),
        ("a b/c:1", '"a b/c" is not a repository'),
        ("x/" + "y" * 254, "longer than 255"),
    ],
)
def test_an_error_names_the_whole_argument(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        references.parse(text)
    said = str(caught.value)
    assert said.startswith(f'invalid reference format: "{text}": ')
    assert why in said


def test_an_error_is_no_longer_than_a_screen() -> None:
    with pytest.raises(InvalidArgument) as caught:
        references.parse("x:" + "y" * 100_000)
    assert len(str(caught.value)) < 1000


def test_latest_is_meant_where_nothing_is_said() -> None:
    assert references.parse("busybox").tagged().tag == "latest"
    assert references.parse("busybox:1").tagged().tag == "1"
    assert references.parse(f"busybox@{DIGEST}").tagged().tag is None
