"""Joins the acceptor at an association, and has text and much binary echoed."""

import asyncio
import os
import ssl
import sys

import websockets

URL = sys.argv[1]
BINARY = os.urandom(16 << 20)


async def receive(peer, count):
    received = bytearray()
    while len(received) < count:
        message = await peer.recv()
        received += message.encode() if isinstance(message, str) else message
    return bytes(received)


async def main():
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname = False
    trust.verify_mode = ssl.CERT_NONE
    is_tls = URL.startswith("wss:")
    async with websockets.connect(
        URL, max_size=None, ssl=trust if is_tls else None
    ) as peer:
        text = "grüße"
        await peer.send(text)
        assert await receive(peer, len(text.encode())) == text.encode()
        sending = asyncio.create_task(peer.send(BINARY))
        assert await receive(peer, len(BINARY)) == BINARY
        await sending
        await (await peer.ping())
    print("ok")


asyncio.run(main())
