"""How much a repository may hold, and how much anybody may ask."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument
from sampan.registry.server.policy.policy import read_policy
from sampan.registry.server.policy.rates import Rates, client_address
from tests.registry.registries import sha256
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import Answer, House

LIMIT = 1_000_000
POLICY = f"""
trusted-proxies = ["127.0.0.1"]
[[quota]]
repositories = ["free/*"]
size = "1TiB"
[[quota]]
repositories = ["*"]
size = "{LIMIT // 1000}KB"
"""


@pytest.fixture(scope="module")
def narrow(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Every repository may hold a million bytes."""
    place = tmp_path_factory.mktemp("narrow", numbered=True)
    (place / "policy").write_text(POLICY)
    options = ("--policy", f"{place}/policy", "--lease", "0", "--collect-every", "0")
    house = House(quick / f"narrow-{os.getpid()}", *options)
    house.start()
    yield house
    house.close()
    shutil.rmtree(house.root)
    house.log.unlink()


def used(house: House, repository: str) -> int:
    database = sqlite3.connect(house.root / "registry.db")
    try:
        row = database.execute("SELECT bytes FROM repositories WHERE name = ?", (repository,))
        return int((row.fetchone() or (0,))[0])
    finally:
        database.close()


def denied(answer: Answer) -> bool:
    return (answer.status, answer.codes) == (403, ["DENIED"])


def test_what_a_repository_holds_is_counted_exactly(narrow: House) -> None:
    house = narrow
    shared = b"s" * 1000
    digest = house.push("q/one", "a", shared, b"l" * 500)
    image = house.request("GET", f"/v2/q/one/manifests/{digest}").body
    config = b'{"os": "linux", "architecture": "amd64"}'
    everything = 1500 + len(config) + len(image)
    assert used(house, "q/one") == everything
    house.push("q/one", "b", shared, b"l" * 500)  # nothing new
    assert used(house, "q/one") == everything
    path = f"/v2/q/two/blobs/uploads/?mount={sha256(shared)}&from=q/one"
    assert house.request("POST", path).status == 201
    assert house.request("POST", path).status == 201
    assert used(house, "q/two") == 1000  # a blob counts wherever it is
    assert house.request("DELETE", f"/v2/q/two/blobs/{sha256(shared)}").status == 202
    assert house.request("DELETE", f"/v2/q/one/manifests/{digest}").status == 202
    assert used(house, "q/one") == everything - len(image)
    with sqlite3.connect(house.root / "registry.db") as database:
        database.execute("UPDATE links SET leased = 0")
    database.close()
    assert house.tool("gc").returncode == 0
    assert used(house, "q/one") == used(house, "q/two") == 0
    assert house.tool("fsck").stdout == "clean\n"


def test_what_does_not_fit_is_refused_and_leaves_nothing(narrow: House) -> None:
    house = narrow
    first = house.put_blob("q/full", b"a" * 600_000)
    house.put_blob("free/full", b"c" * 500_000)
    where = house.begin("q/full")
    big = b"b" * 500_000
    # With a length, without one, in pieces, and as a blob of another repository.
    assert denied(house.request("PUT", f"{where}?digest={sha256(big)}", big))
    assert house.request("GET", where).status == 404
    where = house.begin("q/full")
    assert denied(house.request("PATCH", where, iter([big[:250_000], big[250_000:]])))
    assert house.request("GET", where).status == 404
    where = house.begin("q/full")
    assert house.request("PATCH", where, big[:300_000]).status == 202
    assert denied(house.request("PATCH", where, big[300_000:]))
    mount = f"?mount={sha256(b'c' * 500_000)}&from=free/full"
    assert denied(house.request("POST", f"/v2/q/full/blobs/uploads/{mount}"))
    assert list((house.root / "uploads").iterdir()) == []
    assert sha256(big) not in house.blob_files()
    assert used(house, "q/full") == 600_000
    said = house.request("POST", f"/v2/q/full/blobs/uploads/{mount}").json()["errors"][0]
    assert said["message"].startswith("q/full holds 600000 of the 1000000 bytes of its quota: ")
    assert said["detail"] == {"quota": 1_000_000, "used": 600_000}
    house.put_blob("q/full", b"d" * 400_000)  # to the last byte
    assert denied(house.request("POST", "/v2/q/full/blobs/uploads/"))
    assert denied(house.put_manifest("q/full", "v", b'{"a": 1}', "application/x"))
    assert house.request("DELETE", f"/v2/q/full/blobs/{first}").status == 202
    house.begin("q/full")


def test_of_pushes_side_by_side_no_more_is_stored_than_fits(narrow: House) -> None:
    """Each would fit by itself; the transaction decides."""
    house = narrow
    blobs = [bytes([n]) * 300_000 for n in range(6)]
    where = [house.begin("q/side") for _ in blobs]
    answers: list[Answer] = []

    def push(n: int) -> None:
        answers.append(house.request("PUT", f"{where[n]}?digest={sha256(blobs[n])}", blobs[n]))

    threads = [threading.Thread(target=push, args=(n,)) for n in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    stored = [one for one in answers if one.status == 201]
    assert all(denied(one) for one in answers if one.status != 201)
    assert 1 <= len(stored) <= 3
    assert used(house, "q/side") == 300_000 * len(stored)
    assert {sha256(one) for one in blobs} & set(house.blob_files()) == {
        one.headers["Docker-Content-Digest"] for one in stored
    }
    assert list((house.root / "uploads").iterdir()) == []


def test_uploads_that_never_end_do_not_fill_the_disk(narrow: House) -> None:
    house = narrow
    some = [house.begin("q/slow") for _ in range(3)]
    assert house.request("PATCH", some[0], b"a" * 600_000).status == 202
    assert house.request("PATCH", some[1], b"b" * 400_000).status == 202
    answer = house.request("PATCH", some[2], b"c")
    assert denied(answer)
    assert "uploads to q/slow that are under way have 1000001 bytes" in answer.body.decode()
    assert house.request("DELETE", some[0]).status == 204
    assert house.request("DELETE", some[1]).status == 204
    house.put_blob("q/slow", b"c" * 1000)


@pytest.mark.peer
def test_clients_show_it(narrow: House, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    house = narrow
    house.push("free/fat", "v", os.urandom(LIMIT))
    registry = f"docker://{house.address}"
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    words = ["skopeo", "copy", "-q", *plain, f"{registry}/free/fat:v", f"{registry}/q/fat:v"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "quota" in done.stderr, done.stderr


# -- rates ---------------------------------------------------------------------------------------


def test_an_allowance_is_used_and_grows_back(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(
        '[[rate]]\nusers = ["anonymous", "ci-*"]\nlimit = 3\nper = "1m"\n'
        '[[rate]]\ncount = "pulls"\nlimit = 1\nper = "1h"\n'
    )
    rules = read_policy(str(tmp_path / "p")).rates
    rates = Rates()

    def ask(count: str, user: str, address: str, now: float) -> float:
        found = rates.take(rules, count, user, address, now)
        return 0 if found is None else round(found[1], 3)

    assert [ask("requests", "", "10.0.0.1", 100 + n) for n in range(5)] == [0, 0, 0, 17, 16]
    assert ask("requests", "", "10.0.0.2", 104) == 0
    assert ask("requests", "", "10.0.0.1", 120) == 0
    assert ask("requests", "", "10.0.0.1", 121) > 0
    assert [ask("requests", "ci-1", "10.0.0.1", 121) for _ in range(4)] == [0, 0, 0, 20]
    assert [ask("requests", "anna", "10.0.0.1", 121) for _ in range(9)] == [0] * 9
    assert [ask("pulls", "anna", f"10.0.0.{n}", 121) for n in range(2)] == [0, 3600]
    # A customer of IPv6 has 2^64 addresses, and one allowance.
    assert [ask("pulls", "", f"2001:db8::{n}", 121) for n in (1, 2)] == [0, 3600]
    assert ask("pulls", "", "2001:db8:0:1::1", 121) == 0
    for n in range(30_000):
        ask("requests", "", f"10.1.{n // 250}.{n % 250}", 121)
    assert len(rates._whole) <= 10_000


def test_a_proxy_is_believed_where_it_is_trusted() -> None:
    trusted = ["10.0.0.0/8", "::1"]
    assert client_address("192.0.2.1", "198.51.100.7", trusted) == "192.0.2.1"
    assert client_address("10.0.0.1", "", trusted) == "10.0.0.1"
    assert client_address("10.0.0.1", "203.0.113.9, 198.51.100.7", trusted) == "198.51.100.7"
    assert client_address("::1", "198.51.100.7, 10.1.1.1", trusted) == "198.51.100.7"
    assert client_address("10.0.0.1", "198.51.100.7, junk", trusted) == "10.0.0.1"


def test_who_asks_too_much_is_told_when_to_come_back(root: Path) -> None:
    place = root.parent
    htpasswd(place / "accounts", anna="secret")
    (place / "policy").write_text(
        'trusted-proxies = ["127.0.0.1"]\n'
        '[[rate]]\nusers = ["anonymous"]\nlimit = 4\nper = "1h"\n'
        '[[rate]]\ncount = "pulls"\nlimit = 2\nper = "1h"\n'
        '[[rate]]\ncount = "logins"\nlimit = 2\nper = "1h"\n'
    )
    options = ("--htpasswd", f"{place}/accounts", "--anonymous-pull")
    house = House(root, *options, "--policy", f"{place}/policy").start()
    anna = {"Authorization": basic("anna", "secret"), "X_Forwarded_For": "192.0.2.1"}
    try:
        house.authorization = anna["Authorization"]
        house.push("rate/box", "v", b"layer")
        house.authorization = ""
        box = "/v2/rate/box/manifests/v"
        # Pulls: a HEAD is none.
        assert [house.request("GET", box, **anna).status for _ in range(2)] == [200, 200]
        answer = house.request("GET", box, **anna)
        assert (answer.status, answer.codes) == (429, ["TOOMANYREQUESTS"])
        assert 1700 <= int(answer.headers["Retry-After"]) <= 1800
        assert house.request("HEAD", box, **anna).status == 200
        # Requests of one without an account, refused ones too.
        said = [house.request("GET", "/v2/", X_Forwarded_For="192.0.2.9").status for _ in range(5)]
        assert said == [401, 401, 401, 401, 429]
        assert house.request("GET", "/v2/", X_Forwarded_For="192.0.2.8").status == 401
        # Wrong passwords: then not even the right one, from there.
        wrong = basic("anna", "guess")

        def guess(password: str) -> int:
            fields = {"Authorization": password, "X_Forwarded_For": "192.0.2.7"}
            return house.request("GET", "/v2/", **fields).status

        assert [guess(wrong) for _ in range(3)] == [401, 401, 429]
        assert guess(anna["Authorization"]) == 429
        assert house.request("GET", "/v2/", **anna).status == 200
        for _ in range(6):
            assert house.request("GET", "/healthz", X_Forwarded_For="192.0.2.9").status == 200
    finally:
        house.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[rate]]\nlimit = 0\nper = "1m"', "line 2, rate.0.: limit: at least 1"),
        ('[[rate]]\nlimit = 1\nper = "soon"', 'line 3, rate.0.: per: "soon"'),
        ('[[rate]]\nlimit = 1\nper = "0s"', "line 3, rate.0.: per"),
        ('[[rate]]\nlimit = 1\nper = "1s"\ncount = "x"', 'line 4, rate.0.: count: "x"'),
        (
            '[[rate]]\nlimit = 1\nper = "1s"\ncount = "logins"\nusers = ["a"]',
            "line 5, rate.0.: users: ",
        ),
        ('[[quota]]\nrepositories = ["a"]\nsize = "much"', 'line 3, quota.0.: size: "much"'),
        ('[[quota]]\nrepositories = ["a"]\nsize = 3', "line 3, quota.0..size: Expected `str`"),
        ('\ntrusted-proxies = ["x"]', "line 2: trusted-proxies: 'x' does not appear"),
    ],
)
def test_rates_and_quotas_that_are_none_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p").write_text(text)
    with pytest.raises(InvalidArgument, match=f"--policy .*: {said}"):
        read_policy(str(tmp_path / "p"))
