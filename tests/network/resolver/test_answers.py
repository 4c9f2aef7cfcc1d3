"""What a container is answered at 127.0.0.11, by real sockets and by dig(1)."""

from __future__ import annotations

import socket
import subprocess

import pytest

from tests.network.resolver.place import (
    AAAA,
    ANY,
    MX,
    PTR,
    SECOND,
    UPSTREAM,
    A,
    Place,
    addresses,
    code,
    endpoint,
    question,
    told,
    wait_for,
)

pytestmark = pytest.mark.root

WEB = endpoint("web", "10.0.0.2", "fd00::2", names=["web", "www", "0123456789ab", "web.n1"])


def dig(place: Place, *words: str) -> str:
    return subprocess.run(
        [
            *["nsenter", f"--net=/proc/self/fd/{place.container}"],
            *["dig", "@127.0.0.11", "+noall", "+answer", "+comments", *words],
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        pass_fds=[place.container],
    ).stdout


def test_names_are_answered_on_the_client_s_networks_only(place: Place) -> None:
    place.upstream(UPSTREAM, told(code=3))
    place.serve(WEB, endpoint("other", "10.1.0.2", network="n2"))
    for name in ("web", "www", "0123456789ab", "web.n1", "WeB"):
        assert addresses(place.ask(name)) == ["10.0.0.2"], name
    assert addresses(place.ask("web", AAAA)) == ["fd00::2"]
    assert code(place.ask("other")) == 3
    place.resolver.tell({"op": "client", "id": "c1", "networks": ["n1", "n2"]})
    assert addresses(place.ask("other")) == ["10.1.0.2"]


def test_a_name_without_an_address_of_a_kind_is_no_data_and_nobody_else_is_asked(
    place: Place,
) -> None:
    upstream = place.upstream(UPSTREAM)
    place.serve(endpoint("db", "10.0.0.3"))
    for kind in (AAAA, MX, ANY, 65):
        answer = place.ask("db", kind)
        assert (code(answer), answer[6:8]) == (0, b"\0\0"), kind
    assert upstream.seen == []


def test_several_answers_go_round(place: Place) -> None:
    place.serve(*(endpoint("app", f"10.0.0.{number}") for number in (2, 3, 4)))
    seen = [addresses(place.ask("app")) for _ in range(6)]
    assert all(sorted(one) == ["10.0.0.2", "10.0.0.3", "10.0.0.4"] for one in seen)
    assert sorted(one[0] for one in seen) == sorted(["10.0.0.2", "10.0.0.3", "10.0.0.4"] * 2)


def test_links_are_their_client_s_own(place: Place) -> None:
    place.serve(
        endpoint("db", "10.0.0.3"),
        linked={"n1": {"database": "db"}, "n2": {"db": "no"}},
        servers=[],
    )
    assert addresses(place.ask("database")) == ["10.0.0.3"]
    namespace, pidfd = place.another()
    place.resolver.serve({"id": "c2", "networks": ["n1"], "servers": []}, namespace, pidfd)
    with place.socket(namespace=namespace) as sock:
        sock.send(question("database"))
        assert code(sock.recv(512)) == 3


def test_who_has_an_address_is_answered_by_dig(place: Place) -> None:
    place.serve(WEB, servers=[])
    assert "web.n1." in dig(place, "-x", "10.0.0.2")
    assert "web.n1." in dig(place, "-x", "fd00::2")
    assert "NXDOMAIN" in dig(place, "-x", "10.0.0.9")
    assert code(place.ask("999.0.0.10.in-addr.arpa", PTR)) == 3
    answered = dig(place, "web", "+dnssec", "+cookie")
    assert "10.0.0.2" in answered
    assert "NOERROR" in answered
    assert "10.0.0.2" in dig(place, "web", "+tcp")
    assert "BADVERS" in dig(place, "web", "+edns=1", "+noednsnegotiation")


def test_what_changes_is_answered_from_then_on(place: Place) -> None:
    place.serve(WEB, servers=[])
    place.resolver.tell({"op": "endpoint", **WEB, "names": ["site"]})
    assert code(place.ask("web")) == 3
    assert addresses(place.ask("site")) == ["10.0.0.2"]
    place.resolver.tell({"op": "endpoint", **WEB, "names": ["site"], "id": "its next run's"})
    place.resolver.tell({"op": "forget", "endpoints": [WEB["id"]]})
    assert addresses(place.ask("site")) == ["10.0.0.2"]
    place.resolver.tell({"op": "forget", "endpoints": ["its next run's"]})
    assert code(place.ask("site")) == 3


def test_a_long_answer_is_cut_by_udp_as_edns_says_and_whole_by_tcp(place: Place) -> None:
    place.serve(*(endpoint("many", f"10.0.1.{number}") for number in range(1, 151)))
    short = place.ask("many")
    assert short[2] & 2
    assert 400 < len(short) <= 512
    longer = place.ask("many", edns=1232)
    assert longer[2] & 2
    assert 1100 < len(longer) <= 1232
    whole = place.ask("many", edns=4096)
    assert not whole[2] & 2
    assert len(addresses(whole)) == 150
    assert len(addresses(place.ask_tcp(question("many")))) == 150


def test_others_are_asked_what_is_not_known(place: Place) -> None:
    upstream = place.upstream(UPSTREAM, told("192.0.2.7"))
    place.serve()
    answer = place.ask("example.org", ident=4711)
    assert addresses(answer) == ["192.0.2.7"]
    assert answer[:2] == (4711).to_bytes(2, "big")
    assert addresses(place.ask_tcp(question("example.org"))) == ["192.0.2.7"]
    idents = {packet[:2] for packet in upstream.seen}
    assert len(upstream.seen) == 2
    assert (4711).to_bytes(2, "big") not in idents or len(idents) == 2


def test_the_next_server_is_asked_for_one_that_is_silent_gone_or_refuses(place: Place) -> None:
    silent = place.upstream(UPSTREAM, lambda _: None)
    place.upstream(SECOND)
    place.serve()
    assert addresses(place.ask("one.example")) == ["192.0.2.1"]
    assert len(silent.seen) == 1
    # It is asked last now.
    assert addresses(place.ask("two.example")) == ["192.0.2.1"]
    assert len(silent.seen) == 1
    for bad in (["127.0.0.99", SECOND], ["::1", SECOND], ["not an address", SECOND]):
        place.resolver.tell({"op": "client", "id": "c1", "networks": [], "servers": bad})
        assert addresses(place.ask("three.example")) == ["192.0.2.1"], bad
    place.upstream("127.0.0.55", told(code=2))
    servers = ["127.0.0.55", SECOND]
    place.resolver.tell({"op": "client", "id": "c1", "networks": [], "servers": servers})
    assert addresses(place.ask("four.example")) == ["192.0.2.1"]
    place.resolver.tell({"op": "client", "id": "c1", "networks": [], "servers": ["127.0.0.99"]})
    assert code(place.ask("five.example")) == 2


def test_the_machine_s_servers_are_read_again_when_they_change(place: Place) -> None:
    place.upstream(UPSTREAM)
    place.upstream("127.0.0.60", told("192.0.2.60"))
    place.serve()
    assert addresses(place.ask("example.org")) == ["192.0.2.1"]
    place.resolv_conf.write_text("# moved\nnameserver 127.0.0.60\n")
    wait_for(lambda: addresses(place.ask("example.org")) == ["192.0.2.60"])


def test_names_without_a_dot_stay_here_where_ndots_was_given(place: Place) -> None:
    upstream = place.upstream(UPSTREAM)
    place.serve(bare=True)
    assert code(place.ask("alone")) == 3
    assert upstream.seen == []
    assert addresses(place.ask("not.alone")) == ["192.0.2.1"]


def test_the_c_library_finds_names_with_a_search_domain(place: Place, tmp_path: object) -> None:
    resolv_conf = f"{tmp_path}/inside.conf"
    with open(resolv_conf, "w", encoding="ascii") as file:
        file.write("nameserver 127.0.0.11\nsearch n1\noptions ndots:1 timeout:2\n")
    place.serve(endpoint("web", "10.0.0.2", names=["web.n1"]), servers=[])
    found = subprocess.run(
        [
            *["nsenter", f"--net=/proc/self/fd/{place.container}", "unshare", "--mount", "sh"],
            *["-c", f"mount --bind {resolv_conf} /etc/resolv.conf && getent hosts web"],
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        pass_fds=[place.container],
    )
    assert found.stdout.startswith("10.0.0.2"), found


def test_a_transfer_is_refused(place: Place) -> None:
    place.serve()
    assert code(place.ask_tcp(question("example.org", 252))) == 5


def test_sockets_of_both_kinds_are_the_container_s_own(place: Place) -> None:
    place.serve(WEB)
    with pytest.raises(OSError, match="refused"), place.socket(namespace=place.machine) as sock:
        sock.send(question("web", A))
        sock.recv(512)
    with pytest.raises(OSError, match="refused"):
        place.socket(socket.SOCK_STREAM, place.machine)
