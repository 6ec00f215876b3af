"""Processes that serve HTTP on the loopback interface, and the output of libraries that run in this process."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def request(url, body=None, timeout=300):
    """GET, or POST of a JSON body. Returns the JSON answer. An HTTP error is raised with the text that the server sent."""
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url}: {error.code} {error.read().decode(errors='replace')[:500]}") from None


@contextlib.contextmanager
def process(command, health, log, seconds, environment=None):
    """Runs a server until the end of the block. Waits up to `seconds` until `health` answers. Writes its output to `log`."""
    with open(log, "wb") as output:
        child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                 env=os.environ | (environment or {}), start_new_session=True)
    try:
        deadline = time.monotonic() + seconds
        while True:
            if child.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {child.returncode} before it was ready; its log: {log}")
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                request(health, timeout=5)
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} was not ready within {seconds} s; its log: {log}")
            time.sleep(0.2)
        yield child
    finally:
        # The whole session, because vLLM starts processes of its own.
        for signal in (15, 9):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)


@contextlib.contextmanager
def output_to(log):
    """Sends what native code in this process prints to `log` until the end of the block."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with open(log, "ab") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, previous in zip((1, 2), kept):
            os.dup2(previous, descriptor)
            os.close(previous)
