"""Downloading a picture from an address that a stranger may have chosen: checked, pinned and bounded."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from .errors import ImageError, ImageTooLarge, ImageUnreadable


def check_bytes(size: int, limit: int, where: str) -> None:
    """Raise :class:`ImageTooLarge` when an encoded picture of `size` bytes is over the limit."""
    if size > limit:
        allowed = f"{limit / 2**20:g} MiB"
        raise ImageTooLarge("The file is too large", where=where, allowed=allowed, todo="Make it smaller first.")


def read_at_most(stream: Any, limit: int, where: str) -> bytes:
    """All of a stream; :class:`ImageTooLarge` as soon as it gives more than `limit` bytes."""
    parts, size = [], 0
    while part := stream.read(min(2**20, limit + 1 - size)):
        parts.append(part)
        size += len(part)
        check_bytes(size, limit, where)
    return b"".join(parts)


# Global addresses that are somebody's inside: Azure's platform, and ranges that carry an IPv4 address
# (6to4, Teredo), which a gateway would unpack. Of IPv6 only 2000::/3 is let through at all, which leaves
# out NAT64, mapped and compatible addresses.
_INSIDE = [ipaddress.ip_network(net) for net in ("168.63.129.16/32", "192.88.99.0/24", "2002::/16", "2001::/23")]
_UNICAST6 = ipaddress.ip_network("2000::/3")


def is_public(address: str) -> bool:
    """Whether a resolved address may be connected to. The one hook that tests replace."""
    ip = ipaddress.ip_address(address)
    if not ip.is_global or ip.is_multicast or (ip.version == 6 and ip not in _UNICAST6):
        return False
    return not any(ip in net for net in _INSIDE)


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever its name resolves to a moment later."""

    def __init__(self, url: SplitResult, address: str, timeout: float) -> None:
        self.secure, self.address, self.live = url.scheme == "https", address, None
        self.default_port = 443 if self.secure else 80
        super().__init__(url.hostname, url.port, timeout=timeout)

    def connect(self) -> None:
        """Connect to the checked address; the certificate must be that of the name."""
        self.sock = self.live = socket.create_connection((self.address, self.port), self.timeout)
        if self.secure:
            wrap = ssl.create_default_context().wrap_socket
            self.sock = self.live = wrap(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()

    def cut(self) -> None:
        """End it from another thread; with a timeout per read, a byte per second could go on for ever."""
        with contextlib.suppress(OSError, AttributeError):
            self.live.shutdown(socket.SHUT_RDWR)


def short(url: str) -> str:
    """A URL for messages: without its user and query, which may hold secrets."""
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", url)[0])[:200]


def download(url: str, *, limit: int, timeout: float, redirects: int) -> bytes:
    """The bytes behind an `http(s)://` address that is not inside anybody's network.

    Args:
        url: the address.
        limit: bytes at most.
        timeout: seconds for all of it, redirects included; looking up a host name has its own limit.
        redirects: followed at most, each checked like the first address.

    Raises:
        ImageError: an address that is not public; ImageTooLarge, ImageUnreadable.
        OSError, http.client.HTTPException: network trouble.
    """
    where, deadline = short(url), time.monotonic() + timeout
    for _ in range(redirects + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            todo = "Save the picture to a file and give its path."
            raise ImageError("This address is not read", where=short(url), allowed="http and https", todo=todo)
        infos = socket.getaddrinfo(parts.hostname, parts.port or parts.scheme, type=socket.SOCK_STREAM)
        for address in (addresses := [str(info[4][0]) for info in infos]):
            if not is_public(address):
                found = f"{parts.hostname} at {address}"
                todo = "Save the picture to a file and give its path."
                raise ImageError("This address is not public", where=short(url), found=found, todo=todo)
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError(f"no answer within {timeout:g} s")
        connection = _Pinned(parts, addresses[0], left)
        timer = threading.Timer(left, connection.cut)
        timer.daemon = True
        timer.start()
        try:
            target = quote(f"{parts.path or '/'}?{parts.query}".rstrip("?"), safe="%/:?&=~+!$,;'@()*[]")
            headers = {"User-Agent": "styleforge", "Accept": "image/*", "Connection": "close"}
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, answer.headers["Location"])
                    continue
                if answer.status != 200:
                    raise ImageUnreadable(
                        "Cannot download the picture",
                        where=where,
                        found=f"HTTP status {answer.status}",
                        todo="Check the address in a browser.",
                    )
                check_bytes(answer.length or 0, limit, where)
                data = read_at_most(answer, limit, where)
                if time.monotonic() >= deadline or answer.length:  # which is what has not come
                    raise TimeoutError("the download was not complete in time")
                return data
        finally:
            timer.cancel()
            connection.close()
    raise ConnectionError(f"more than {redirects} redirects")
