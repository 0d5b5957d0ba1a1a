"""Loopback servers that follow a script, byte by byte."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from atom_sansio._messages import Origin


class Peer:
    """The server's end of one connection."""

    OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"Status":"OK"}'

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def read_head(self) -> bytes:
        """A request up to its body, byte by byte; empty when the client has left."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            if not byte:
                return b""
            data += byte
        return data

    def read_request(self) -> bytes:
        """A whole request, or a reply; empty when the client has left."""
        head = self.read_head()
        if head:
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            body = b""
            while len(body) < length:
                data = self.socket.recv(65536)
                if not data:
                    return b""
                body += data
            head += body
        return head

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def serve(self, reply: bytes = OK) -> None:
        """Reply to whatever comes, until the client leaves."""
        while self.read_request():
            self.write(reply)

    def left(self) -> bool:
        """Wait until the client has closed, one way or the other."""
        try:
            while self.socket.recv(65536):
                pass
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script = Callable[[Peer, int], Any]


class Server:
    """Runs a script ``(peer, number of the connection)`` for each connection, in a thread of its own.

    Args:
        script: What to run.
        context: For TLS.
        narrow: Whether the systems of both ends take but little of what is not read yet.
    """

    def __init__(self, script: Script, context: ssl.SSLContext | None = None, *, narrow: bool = False) -> None:
        self._script = script
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        if narrow:  # as connections are that the listener accepts
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self._peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.connections = 0

    def origin(self, host: str = "127.0.0.1") -> Origin:
        return Origin("http" if self._context is None else "https", host, self._listener.getsockname()[1])

    def __enter__(self) -> Server:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._threads[0].join()
        self._listener.close()
        for peer in self._peers:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for peer in self._peers:
            peer.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock)
            self._peers.append(peer)
            thread = threading.Thread(target=self._run, args=(peer, self.connections))
            self.connections += 1
            self._threads.append(thread)
            thread.start()

    def _run(self, peer: Peer, number: int) -> None:
        try:
            if self._context is not None:
                peer.socket = self._context.wrap_socket(peer.socket, server_side=True)
            self._script(peer, number)
        except OSError:  # what a client does to its server is for the client's test to judge
            pass
