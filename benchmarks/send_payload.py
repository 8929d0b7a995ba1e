"""Send so many bytes over one TCP connection, again and again, and say how long each took.

python benchmarks/send_payload.py receive ADDRESS BYTES          prints its port
python benchmarks/send_payload.py send ADDRESS BYTES PORT TRIES IDLE_SECONDS
"""

from __future__ import annotations

import socket
import sys
import time


def receive(address: str, size: int) -> None:
    with socket.create_server((address, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        buffer = bytearray(1 << 20)
        with connection:
            while True:
                left = size
                while left:
                    count = connection.recv_into(buffer, min(left, len(buffer)))
                    if not count:
                        return
                    left -= count
                connection.sendall(b"!")


def send(address: str, size: int, port: int, tries: int, idle_seconds: float) -> None:
    payload = bytes(size)
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(tries):
            time.sleep(idle_seconds)
            started = time.perf_counter()
            connection.sendall(payload)
            if connection.recv(1) != b"!":
                raise ConnectionError("the receiver is gone")
            print(time.perf_counter() - started, flush=True)


def main() -> None:
    what, address, size, *rest = sys.argv[1:]
    if what == "receive":
        receive(address, int(size))
    else:
        port, tries, idle_seconds = rest
        send(address, int(size), int(port), int(tries), float(idle_seconds))


if __name__ == "__main__":
    main()
