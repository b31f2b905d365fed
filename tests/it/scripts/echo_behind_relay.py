"""Makes a relay look like an echo server: each client becomes the connector of an
association of its own, at which an echo waits, both over WebSocket."""

import asyncio
import sys
import uuid

import websockets

RELAY = sys.argv[1]
HOST, PORT = RELAY.split(":")


async def echo(peer):
    try:
        async for message in peer:
            await peer.send(message)
    except websockets.ConnectionClosed:
        pass


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def serve(reader, writer):
    association = uuid.uuid4()
    peer = await websockets.connect(
        f"ws://{RELAY}/jet/accept/{association}",
        max_size=None,
        compression=None,
        ping_interval=None,
    )
    echoing = asyncio.create_task(echo(peer))
    head = await reader.readuntil(b"\r\n\r\n")
    _, rest = head.split(b"\r\n", 1)
    from_relay, to_relay = await asyncio.open_connection(HOST, int(PORT))
    to_relay.write(f"GET /jet/connect/{association} HTTP/1.1\r\n".encode() + rest)
    await asyncio.gather(pump(reader, to_relay), pump(from_relay, writer))
    writer.close()
    to_relay.close()
    await peer.close()
    await echoing


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
