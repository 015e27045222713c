"""A client that shakes hands anew for every request: `handshakes.py PORT SECONDS CONNECTIONS`.

wrk and h2load resume the session of their last connection, which saves the server the signature that
is to be measured. The benchmark runs this as a process of its own, on the core of the load, and reads
the one line of JSON that it prints. Times are microseconds.
"""

import json
import socket
import sys
import threading
import time

import load


def client(port, until, times, faults):
    """One connection after the other, each with one request, until the time is over."""
    context = load.tls_context()
    while time.monotonic() < until:
        begun = time.monotonic()
        try:
            one(context, port)
            times.append(time.monotonic() - begun)
        except (OSError, RuntimeError) as error:
            faults.append(str(error))


def one(context, port):
    """A connection, a full handshake, and a request that is the last."""
    with socket.create_connection(("127.0.0.1", port), 5) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_hostname=load.SERVER_NAME) as connection:
            if connection.session_reused:
                raise RuntimeError("the session was resumed")
            load.exchange(connection, load.CLOSING)


def main():
    """Runs the clients and prints what they measured."""
    port, seconds, connections = (int(text) for text in sys.argv[1:4])
    begun = time.monotonic()
    times, faults = [], []
    arguments = (port, begun + seconds, times, faults)
    threads = [threading.Thread(target=client, args=arguments) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    duration = time.monotonic() - begun
    if faults:
        print(f"handshakes: {faults[0]}", file=sys.stderr)
    print(json.dumps(load.report([1e6 * taken for taken in times], duration * 1e6, len(faults))))


if __name__ == "__main__":
    main()
