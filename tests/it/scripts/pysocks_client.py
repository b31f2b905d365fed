"""Fetches a URL's path by PySocks: PROXY_PORT HOST PORT PATH; writes the answer to stdout."""

import sys

import socks

port, host, target_port, path = sys.argv[1:]
client = socks.socksocket()
client.set_proxy(socks.SOCKS5, "127.0.0.1", int(port))
client.settimeout(60)
client.connect((host, int(target_port)))
client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
while piece := client.recv(65536):
    sys.stdout.buffer.write(piece)
