"""The guard that keeps tests off the network is itself tested, here and in a process started by a test."""

import socket
import subprocess
import sys

import pytest
from sitecustomize import NetworkUsedError, is_local


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "", None, b"localhost"])
def test_this_computer_is_local(host):
    assert is_local(host)


@pytest.mark.parametrize("host", ["example.org", "192.0.2.1", "10.0.0.1", "2001:db8::1"])
def test_everything_else_is_not(host):
    assert not is_local(host)


def test_a_connection_to_elsewhere_is_refused():
    with socket.socket() as client, pytest.raises(NetworkUsedError, match=r"192\.0\.2\.1"):
        client.connect(("192.0.2.1", 80))


def test_looking_up_a_name_is_refused():
    with pytest.raises(NetworkUsedError, match=r"example\.org"):
        socket.create_connection(("example.org", 80))


def test_a_connection_to_this_computer_works():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_a_started_python_is_held_to_the_same_rule():
    code = "import socket; socket.socket().connect(('192.0.2.1', 80))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.returncode == 1
    assert "NetworkUsedError" in child.stderr
