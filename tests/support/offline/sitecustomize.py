"""No test may reach the network: every Python process of the tests refuses connections that leave this computer.

Python imports a module of this name by itself when it starts. tests/conftest.py puts this folder first on PYTHONPATH,
so that notebook kernels and command lines started by a test are held to the same rule, and imports it for pytest.
"""

import ipaddress
import socket

LOCAL_NAMES = {None, "", "localhost", socket.gethostname()}


class NetworkUsedError(RuntimeError):
    """Not an OSError, so that code which falls back when it finds no network cannot hide the attempt."""


def is_local(host: str | bytes | None) -> bool:
    """Whether `host`, a name or an address in text form, is this computer."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse_remote(host: str | bytes | None) -> None:
    if not is_local(host):
        raise NetworkUsedError(f"A test tried to reach {host}: tests must not use the network.")


def _checked_connect(connect):
    def checked(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_remote(address[0])
        return connect(self, address)

    return checked


def _checked_lookup(lookup):
    def checked(host, *args, **kwargs):
        _refuse_remote(host)
        return lookup(host, *args, **kwargs)

    return checked


def block() -> None:
    socket.socket.connect = _checked_connect(socket.socket.connect)
    socket.socket.connect_ex = _checked_connect(socket.socket.connect_ex)
    socket.getaddrinfo = _checked_lookup(socket.getaddrinfo)


block()
