"""Sends datagrams through a SOCKS5 proxy, and shows what comes back from where."""

import socket
import sys

import socks

PROXY_PORT, HOST, PORT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])

client = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
client.set_proxy(socks.SOCKS5, "127.0.0.1", PROXY_PORT)
client.settimeout(60)
for payload in [b"hello", b"x" * 1400, b"", b"again"]:
    client.sendto(payload, (HOST, PORT))
    answer, peer = client.recvfrom(2048)
    assert answer == payload, (answer, payload)
    assert peer == ("127.0.0.1", PORT), peer
client.close()
print("echoed")
