"""Fetching: limits of time, size, redirects and reach, and the charset of what comes."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hive.errors import FetchError
from hive.tasks import addresses
from hive.tasks.addresses import checked_url, is_public
from hive.tasks.fetching import Limits, Page, Wanted, fetch_page
from tests.unit.page_server import PageServer, page_server

QUICK = Limits(connect=1, read=0.3, total=0.8, size=256 * 1024, redirects=3)


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with page_server() as running:
        yield running


def get(url: str, limits: Limits | None = None, *, wanted: Wanted = "text") -> Page:
    return fetch_page(url, allow_private=True, wanted=wanted, limits=limits)


def refusal(url: str, limits: Limits | None = None, *, wanted: Wanted = "text") -> str:
    with pytest.raises(FetchError) as caught:
        get(url, limits, wanted=wanted)
    return caught.value.message


def test_a_page_comes_with_its_text_type_charset_and_size(server: PageServer) -> None:
    url = server.page("/page", "<p>Grüße</p>".encode(), "text/html; charset=utf-8")
    page = get(url)
    assert page == Page(
        url=url,
        status=200,
        content_type="text/html",
        charset="utf-8",
        size=14,
        redirects=0,
        text="<p>Grüße</p>",
    )


@pytest.mark.parametrize(
    ("name", "body", "content_type", "charset"),
    [
        ("header", "Grüße".encode("iso-8859-1"), "text/plain; charset=ISO-8859-1", "cp1252"),
        (
            "meta",
            '<meta charset="windows-1251"><p>Grüße? Привет'.encode("cp1251", "ignore"),
            "text/html",
            "cp1251",
        ),
        (
            "http-equiv",
            b'<meta http-equiv=Content-Type content="text/html; charset=shift_jis">'
            + "日本語".encode("cp932"),
            "text/html",
            "cp932",
        ),
        (
            "xml",
            '<?xml version="1.0" encoding="iso-8859-15"?><p>5 €</p>'.encode("iso-8859-15"),
            "application/xhtml+xml",
            "iso8859-15",
        ),
        ("mark", "Grüße".encode("utf-16"), "text/html; charset=utf-8", "utf-16"),
        ("unknown-label", "Grüße".encode(), "text/html; charset=no-such-thing", "utf-8"),
        ("not-a-text-codec", "Grüße".encode(), "text/html; charset=zlib", "utf-8"),
        (
            "wrong-header",
            '<meta charset="koi8-r">Привет'.encode("koi8-r"),
            "text/html; charset=utf-8",
            "koi8-r",
        ),
    ],
)
def test_the_charset_is_found(
    server: PageServer, name: str, body: bytes, content_type: str, charset: str
) -> None:
    page = get(server.page(f"/charset-{name}", body, content_type))
    assert page.charset == charset
    assert page.text == body.decode(charset)


def test_a_page_that_says_nothing_of_its_charset_is_detected(server: PageServer) -> None:
    text = (
        "Съешь же ещё этих мягких французских булок, да выпей чаю. Широкая электрификация южных "
        "губерний даст мощный толчок." * 5
    )
    assert get(server.page("/detected", text.encode("cp1251"), "text/html")).text == text


def test_a_few_broken_bytes_do_not_change_the_charset(server: PageServer) -> None:
    page = get(
        server.page("/broken", "Grüße ".encode() * 100 + b"\xff", "text/html; charset=utf-8")
    )
    assert page.charset == "utf-8"
    assert page.text == "Grüße " * 100 + "\ufffd"


def test_what_the_server_refuses_is_named_with_its_status(server: PageServer) -> None:
    assert (
        refusal(server.url("/nowhere"))
        == f"{server.url('/nowhere')}: the server answered 404 Not Found."
    )


def test_a_redirect_is_followed_and_counted(server: PageServer) -> None:
    server.page("/goal", b"here")
    page = get(server.redirect("/start", "/goal"))
    assert (page.url, page.redirects, page.text) == (server.url("/goal"), 1, "here")


def test_a_redirect_loop_ends(server: PageServer) -> None:
    assert "more than 3 redirects" in refusal(server.redirect("/loop", "/loop"), QUICK)
    assert server.requests.count(("/loop", f"127.0.0.1:{server.port}")) == 4


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"]
)
def test_a_redirect_away_from_http_is_refused(server: PageServer, target: str) -> None:
    assert "only http:// and https://" in refusal(server.redirect("/away", target))


def test_a_silent_server_times_out(server: PageServer) -> None:
    assert "sent nothing for 0.3 s" in refusal(server.silent("/silent"), QUICK)


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", b"a"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\na\r\n",
        ),
    ],
    ids=["header", "body", "chunks"],
)
def test_a_server_that_drips_is_cut_off_at_the_deadline(
    server: PageServer, start: bytes, drop: bytes
) -> None:
    began = time.monotonic()
    assert "took longer than 0.8 s in all" in refusal(server.dripping("/drip", start, drop), QUICK)
    assert time.monotonic() - began < 20


def test_a_hundred_megabytes_are_not_read_to_the_end(server: PageServer) -> None:
    assert "larger than 0.25 MiB" in refusal(
        server.endless("/endless", 100), Limits(size=256 * 1024)
    )
    assert server.sent < 50 * 1024 * 1024


def test_a_page_that_says_it_is_too_large_is_not_read_at_all(server: PageServer) -> None:
    url = server.raw(
        "/stated",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 104857600\r\n\r\n<p>",
    )
    assert "larger than 10 MiB" in refusal(url)


def test_the_size_that_counts_is_the_decompressed_one(server: PageServer) -> None:
    assert get(server.gzipped("/gzip", b"<p>compressed</p>")).text == "<p>compressed</p>"
    assert "larger than 0.25 MiB" in refusal(server.gzipped("/bomb", b"\0" * 50_000_000), QUICK)


def test_an_unknown_compression_is_refused(server: PageServer) -> None:
    assert "compressed with br" in refusal(server.page("/brotli", b"xxx", Content_Encoding="br"))


def test_a_broken_compression_is_refused(server: PageServer) -> None:
    assert "the connection failed" in refusal(
        server.page("/no-gzip", b"not gzip", Content_Encoding="gzip")
    )


@pytest.mark.parametrize("body", [b"", b" \r\n\t "])
def test_an_empty_page_is_an_error(server: PageServer, body: bytes) -> None:
    assert "the page is empty" in refusal(server.page("/empty", body))


def test_a_page_cut_short_is_an_error(server: PageServer) -> None:
    url = server.raw(
        "/short",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 500\r\n\r\n<p>only this",
    )
    assert "the connection failed" in refusal(url)


def test_an_answer_that_is_not_http_is_an_error(server: PageServer) -> None:
    assert "the connection failed" in refusal(
        server.raw("/rubbish", b"\x00\x01\x02 rubbish\r\n\r\n")
    )


@pytest.mark.parametrize(
    "content_type", ["image/png", "application/pdf", "application/octet-stream", "video/mp4"]
)
def test_what_is_not_text_is_refused(server: PageServer, content_type: str) -> None:
    assert f"the page is {content_type}, not text" in refusal(
        server.page("/file", b"data", content_type)
    )


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "text/plain", "text/csv", "application/xml", "application/ld+json"],
)
def test_text_that_is_not_html_is_fetched_but_no_article(
    server: PageServer, content_type: str
) -> None:
    url = server.page("/text", b'{"a": 1}', content_type)
    assert get(url).text == '{"a": 1}'
    assert f"the page is {content_type}, not HTML" in refusal(url, wanted="html")


@pytest.mark.parametrize(
    ("stated", "kind"),
    [
        ("text/html, text/html", "text/html"),
        ("text/html,text/html;charset=utf-8", "text/html"),
        ("text/plain, text/html; charset=utf-8", "text/html"),
        ("text/html;;charset=UTF-8", "text/html"),
        ("TEXT/HTML ; charset", "text/html"),
        ('text/html; charset="utf-8', "text/html"),
        ("text/html charset=utf-8", "text/html"),
        ("text/html; charset=utf8mb4", "text/html"),
        ("html", ""),
        ("utf-8", ""),
        ("*/*", ""),
        (";", ""),
        ("", ""),
    ],
)
def test_a_content_type_is_read_as_browsers_do(server: PageServer, stated: str, kind: str) -> None:
    page = get(server.page("/typed", "<p>Grüße".encode(), stated), wanted="html")
    assert (page.content_type, page.text) == (kind, "<p>Grüße")


def test_a_content_type_sent_twice_is_read_as_browsers_do(server: PageServer) -> None:
    url = server.raw(
        "/twice",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=koi8-r\r\n"
        b"Content-Type: text/html\r\n\r\n<p>" + "Привет".encode("koi8-r"),
    )
    page = get(url, wanted="html")
    assert (page.content_type, page.charset, page.text) == ("text/html", "koi8-r", "<p>Привет")


@pytest.mark.parametrize(
    "stated", ["utf-8", "UTF8", "none", "", "text/html", "identity", "identity,", "binary, utf-8"]
)
def test_a_content_encoding_that_is_none_is_passed_over(server: PageServer, stated: str) -> None:
    assert get(server.page("/encoded", b"<p>text", Content_Encoding=stated)).text == "<p>text"


@pytest.mark.parametrize("stated", ["GZIP", "identity, gzip", "utf-8,gzip", "gzip, none", "x-gzip"])
def test_a_compression_among_other_names_is_undone(server: PageServer, stated: str) -> None:
    body = gzip.compress(b"<p>text")
    assert get(server.page("/encoded", body, Content_Encoding=stated)).text == "<p>text"


@pytest.mark.parametrize("stated", ["br", "gzip, br", "ZSTD", "compress"])
def test_a_compression_that_cannot_be_undone_is_named(server: PageServer, stated: str) -> None:
    said = refusal(server.page("/encoded", b"xxx", Content_Encoding=stated))
    assert f"compressed with {stated.lower().removeprefix('gzip, ')}" in said


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (b"/a page", "/a%20page"),
        (b"  /goal\t ", "/goal"),
        ("/café".encode(), "/caf%C3%A9"),
        ("/café".encode("latin-1"), "/caf%E9"),
        ("/s?q=é x".encode("latin-1"), "/s?q=%E9%20x"),
        (b"\\goal", "/goal"),
        (b"/50%25/{id}|<x>", "/50%25/%7Bid%7D%7C%3Cx%3E"),
        (b"goal#top", "/goal"),
        (b"//127.0.0.1:PORT/goal", "/goal"),
        (b"HTTP://127.0.0.1:PORT/g\xe9", "/g%E9"),
    ],
)
def test_a_location_is_followed_as_browsers_do(
    server: PageServer, location: bytes, path: str
) -> None:
    server.page(path, b"here")
    location = location.replace(b"PORT", str(server.port).encode())
    url = server.raw("/start", b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n")
    assert get(url).text == "here"
    assert server.requests[-1][0] == path


@pytest.mark.parametrize(
    "location",
    [b"http://[::1/", b"http://", b"http://127.0.0.1:99999/", b"http://\xe9/", b"http://a b/"],
)
def test_a_location_that_leads_nowhere_is_an_error(server: PageServer, location: bytes) -> None:
    url = server.raw("/start", b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n")
    assert "is not an address" in refusal(url)


def test_an_address_is_encoded_as_browsers_do(server: PageServer) -> None:
    server.page("/caf%C3%A9%20au%20lait?a=%22b%22", b"here")
    assert get(f' {server.url("/café au lait?a=")}"b"\n').text == "here"


def test_stray_nuls_of_a_page_are_passed_over(server: PageServer) -> None:
    page = get(server.page("/nul", b"<p>Some words\0 of a page" + b", and more of them" * 20))
    assert page.text.startswith("<p>Some words of a page, and")


def test_binary_that_calls_itself_html_is_refused(server: PageServer) -> None:
    assert "binary" in refusal(server.page("/lie", b"\x89PNG\r\n\0\0\0"))


def test_a_page_without_a_content_type_must_look_like_html_where_html_is_needed(
    server: PageServer,
) -> None:
    assert get(server.page("/untyped", b"<html><p>text", None), wanted="html").content_type == ""
    assert "does not look like HTML" in refusal(
        server.page("/untyped", b"just words", None), wanted="html"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.org/x", "only http:// and https://"),
        ("file:///etc/passwd", "only http:// and https://"),
        ("/etc/passwd", "only http:// and https://"),
        ("http://", "is not an address"),
        ("http://example.org:0/", "is not an address"),
        ("http://example.org:99999/", "is not an address"),
        ("http://exa mple.org/", "is not an address"),
        ("http://example.org/\nHost: other", "is not an address"),
        ("http://[::1/", "is not an address"),
        ("http://example.org/" + "a" * 9000, "is not an address"),
    ],
)
def test_what_is_no_web_address_is_refused(url: str, reason: str) -> None:
    with pytest.raises(FetchError, match=reason) as caught:
        checked_url(url)
    assert len(caught.value.message) < 400


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(FetchError) as caught:
        checked_url("https://user:hunter2@example.org/")
    assert "hunter2" not in caught.value.message


def test_an_unknown_host_is_named() -> None:
    assert "The host no-such-host.invalid is not known" in refusal(
        "http://no-such-host.invalid/", QUICK
    )


def test_a_host_that_does_not_listen_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert f"127.0.0.1 port {port} cannot be reached: Connection refused" in refusal(
            f"http://127.0.0.1:{port}/", QUICK
        )


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "172.16.3.4",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
        ),
        *(
            "240.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fe80::1%1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "fec0::1",
        ),
        *(
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ),
    ],
)
def test_addresses_off_the_public_internet_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.215.14", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_addresses_of_the_public_internet_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0"]
)
def test_this_machine_is_refused_however_it_is_written(server: PageServer, host: str) -> None:
    server.page("/secret", b"secret")
    before = len(server.requests)
    with pytest.raises(FetchError, match="not on the public internet"):
        fetch_page(f"http://{host}:{server.port}/secret", limits=QUICK)
    assert len(server.requests) == before


@pytest.fixture
def first_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as public, so that loopback can play the internet; every other loopback
    address stays private.
    """
    monkeypatch.setattr(
        addresses, "is_public", lambda address: address == "127.0.0.1" or is_public(address)
    )


def names(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[list[str]]]) -> list[str]:
    """A name server: the answers of each name, one look-up after the other, the last for ever.

    Returns the list of look-ups.
    """
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host not in answers:
            return real(host, port, *args, **kwargs)
        asked.append(host)
        found = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.usefixtures("first_is_public")
def test_each_hop_of_a_redirect_is_checked_again(server: PageServer) -> None:
    with page_server("127.0.0.2") as inner:
        secret = inner.page("/secret", b"secret")
        with pytest.raises(FetchError, match=r"127\.0\.0\.2 is not on the public internet"):
            fetch_page(server.redirect("/inwards", secret))
        assert inner.requests == []


@pytest.mark.usefixtures("first_is_public")
def test_a_name_server_that_changes_its_mind_gains_nothing(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.page("/rebound", b"from the checked address")
    asked = names(monkeypatch, {"rebind.test": [["127.0.0.1"], ["127.0.0.2"]]})
    page = fetch_page(f"http://rebind.test:{server.port}/rebound")
    assert page.text == "from the checked address"
    assert asked == ["rebind.test"]
    assert server.requests[-1] == ("/rebound", f"rebind.test:{server.port}")


@pytest.mark.usefixtures("first_is_public")
def test_one_private_address_among_public_ones_is_enough_to_refuse(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, {"mixed.test": [["127.0.0.1", "10.0.0.1"]]})
    with pytest.raises(FetchError, match=r"mixed\.test \(10\.0\.0\.1\) is not on"):
        fetch_page(f"http://mixed.test:{server.port}/rebound")


def test_the_next_address_is_tried_when_the_first_does_not_answer(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.page("/second", b"reached")
    names(monkeypatch, {"two.test": [["127.0.0.3", "127.0.0.1"]]})
    assert get(f"http://two.test:{server.port}/second").text == "reached"


def test_a_name_server_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: released.wait(20) and [])
    try:
        assert "the name server did not answer in time" in refusal("http://slow-dns.test/", QUICK)
    finally:
        released.set()


def test_tls_names_the_host_not_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, {"named.test": [["127.0.0.1"]]})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hello: list[bytes] = []

        def receive() -> None:
            connection, _ = listener.accept()
            with connection:
                hello.append(connection.recv(4096))

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        assert "the secure connection failed" in refusal(
            f"https://named.test:{listener.getsockname()[1]}/"
        )
        thread.join(5)
    assert b"named.test" in hello[0]


def test_proxies_of_the_environment_are_not_used(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert get(server.page("/direct", b"direct")).text == "direct"
