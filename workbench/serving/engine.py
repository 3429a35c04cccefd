"""`transformers serve`, started for a folder of models and ended again: an HTTP server that speaks OpenAI's protocol.

It listens to this computer only, unless another address is asked for. It has no password, and whoever reaches it can
have it load any model that this account can read.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NoReturn

from workbench.console import first_line
from workbench.errors import ServingError

LOOPBACK = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"  # to listen on; whoever connects needs one of them
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # to this computer, past any proxy
NEEDED = ("fastapi", "openai", "uvicorn")  # the extra `serving` of pyproject.toml
START_SECONDS = 120
STOP_SECONDS = 10
START = "from transformers.cli.transformers import main; main()"  # what the command `transformers` does


@dataclass(frozen=True)
class Server:
    """A running server. url: of its API, as OpenAI's client takes it. names: of its models."""

    url: str
    names: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self.process.pid

    def wait(self) -> NoReturn:
        """Wait for as long as the server runs; raises ServingError when the server ends by itself."""
        self.process.wait()
        raise ServingError(f"The server has ended by itself ({_ending(self.process)}): {_last_lines(self.log)}")

    def client(self) -> Any:
        """OpenAI's client for it. The key means nothing here, and the client wants one."""
        from openai import DefaultHttpxClient, OpenAI

        direct = DefaultHttpxClient(trust_env=False)
        return OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=300, http_client=direct)

    def ask(self, name: str, prompt: str, max_tokens: int = 48) -> str:
        """The greedy continuation of a prompt by the model called `name`, without white space at the ends.

        Raises ServingError, with the names that there are, for another one, and with the last lines of the server's
        log if it cannot answer.
        """
        from openai import APIError

        if name not in self.names:
            raise ServingError(f"No model is called {name!r} here; there are {', '.join(self.names)}.")
        try:
            answer = self.client().completions.create(model=name, prompt=prompt, max_tokens=max_tokens, temperature=0)
        except APIError as error:
            words = f"The server could not answer for {name} ({first_line(error)}): {_last_lines(self.log)}"
            raise ServingError(words) from error
        return str(answer.choices[0].text).strip()


@contextmanager
def serve(folder: str | os.PathLike, port: int = 0, dtype: str = "float32", host: str = LOOPBACK) -> Iterator[Server]:
    """A server for the models of a `serving_folder`, within a `with` block; its process ends with the block.

    port: 0 takes a free one. dtype: of the weights. Models are loaded when they are first asked for. Raises
    ServingError for a port in use, without the packages that the server needs, and if it does not start.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ServingError(
            f"Serving needs {', '.join(missing)}: python -m pip install -c constraints.txt -e '.[serving]'."
        )
    folder, port = Path(folder).resolve(), usable_port(port, host)
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    if not names:
        raise ServingError(f"{folder} holds no models; write it with serving_folder().")
    command = [sys.executable, "-c", START, "serve", "--host", host, "--port", str(port), "--dtype", dtype]
    address = LOOPBACK if host == EVERY_ADDRESS else host
    with tempfile.TemporaryFile("a+b") as log:  # the server appends, wherever it is being read
        # The names are folders, relative to the one in which the server runs.
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _wait_until_ready(process, f"http://{address}:{port}/health", log)
            yield Server(f"http://{address}:{port}/v1", names, process, log)
        finally:
            stop(process)


def usable_port(port: int, host: str = LOOPBACK) -> int:
    """The port itself, or a free one for 0. Raises ServingError for one that is in use or is not a port."""
    if not 0 <= port < 2**16:
        raise ServingError(f"port={port} is not a port; give one from 1024 to 65535, or 0 for any that is free.")
    with socket.socket() as probe:
        if os.name == "posix":  # a port whose last server has just ended is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"Port {port} of {host} is not available ({error.strerror}); give another one, or 0 for any that is "
                "free."
            ) from error
        found: int = probe.getsockname()[1]
        return found


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server's process: asked first, then killed."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServingError(f"The server has ended by itself ({_ending(process)}): {_last_lines(log)}")
        with suppress(urllib.error.URLError, OSError), DIRECT.open(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise ServingError(f"The server did not answer within {START_SECONDS} seconds: {_last_lines(log)}")


def _ending(process: subprocess.Popen[bytes]) -> str:
    status = process.returncode
    return f"by {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _last_lines(log: IO[bytes], count: int = 3) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-count:]) or "its log is empty."
