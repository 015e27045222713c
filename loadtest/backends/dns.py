"""A name server for one name, whose addresses can be changed: A records over UDP (RFC 1035)."""

import multiprocessing.sharedctypes
import socket
import struct

from backends import server

NAME = "app.test"
TTL_SECONDS = 1
MOST = 16
TYPE_A, CLASS_IN = 1, 1
# Response, authoritative, recursion available; and with the code for a name that does not exist.
ANSWER, NO_SUCH_NAME = 0x8480, 0x8483
# The name of the question, which begins after the header.
POINTER = 0xC00C


class Dns:
    """The server, in a process of its own."""

    def __init__(self, address, port):
        self.address, self.port = address, port
        self.addresses = multiprocessing.sharedctypes.RawArray("I", MOST)
        self.count = multiprocessing.sharedctypes.RawValue("i", 0)
        self.queries = multiprocessing.sharedctypes.RawValue("i", 0)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.process = server.processes.Process(target=self.serve, daemon=True)
        self.process.start()

    def publish(self, addresses):
        """From now on these."""
        for place, address in enumerate(addresses):
            self.addresses[place] = struct.unpack("!I", socket.inet_aton(address))[0]
        self.count.value = len(addresses)

    def serve(self):
        server.die_with_parent()
        while True:
            query, client = self.socket.recvfrom(4096)
            self.queries.value += 1
            reply = self.reply(query)
            if reply:
                self.socket.sendto(reply, client)

    def reply(self, query):
        if len(query) < 17:
            return None
        end = query.find(b"\0", 12) + 5
        if end < 17 or end > len(query):
            return None
        question = query[12:end]
        kind = struct.unpack("!H", question[-4:-2])[0]
        wanted = b"".join(bytes([len(label)]) + label for label in NAME.encode().split(b".")) + b"\0"
        known = question[:-4].lower() == wanted
        addresses = self.addresses[:self.count.value] if known and kind == TYPE_A else []
        flags = (ANSWER if known else NO_SUCH_NAME) | (query[2] & 1) << 8
        head = query[:2] + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0)
        records = (struct.pack("!HHHIHI", POINTER, TYPE_A, CLASS_IN, TTL_SECONDS, 4, address)
                   for address in addresses)
        return head + question + b"".join(records)

    def kill(self):
        self.process.kill()
        self.process.join()
