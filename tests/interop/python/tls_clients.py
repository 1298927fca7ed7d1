"""Python's usual clients through TLS. Arguments: the port, the file with the authority's certificate.

Every claim is an assertion; what it prints at the end says that all of them held.
"""

import asyncio
import ssl
import sys

import httpx
import websockets

PORT, AUTHORITY = sys.argv[1:]
CONTEXT = ssl.create_default_context(cafile=AUTHORITY)
URL = f"wss://localhost:{PORT}"


def connect(path, **options):
    return websockets.connect(URL + path, ssl=CONTEXT, **options)


async def chat():
    # It offers permessage-deflate, which is not agreed on.
    async with connect("/room/lobby/") as ann, connect("/room/lobby/", compression=None) as bob:
        await ann.send('{"message": "hello"}')
        for client in (ann, bob):
            assert await asyncio.wait_for(client.recv(), 10) == '{"message":"hello"}'


async def echo():
    async with connect("/echo/", subprotocols=["other", "chat"]) as client:
        assert client.subprotocol == "chat"
        for message in ("text", b"binary", "x" * 300_000, "", "é" * 1000):
            await client.send(message)
            assert await asyncio.wait_for(client.recv(), 10) == message
        await asyncio.wait_for(await client.ping(b"are you there"), 10)
        await client.close(3001, "enough")
        assert client.close_code == 3001, client.close_code


async def closes():
    async with connect("/echo/", subprotocols=["chat"]) as client:
        await client.send("x" * 400_000)
        await asyncio.wait_for(client.wait_closed(), 10)
        assert client.close_code == 1009, client.close_code
    async with connect("/limited/") as client:
        for _ in range(10):
            await client.send("again")
        await asyncio.wait_for(client.wait_closed(), 10)
        assert client.close_code == 1008, client.close_code


async def refusals():
    for path, options, status in (
        ("/nowhere/", {}, 404),
        ("/room/lobby/", {"origin": "https://evil.example"}, 403),
        ("/room/lobby/", {"origin": f"https://localhost:{PORT}"}, None),
    ):
        try:
            async with connect(path, **options):
                assert status is None, path
        except websockets.exceptions.InvalidStatus as refused:
            assert refused.response.status_code == status, (path, refused)


async def requests():
    async with httpx.AsyncClient(http2=True, verify=CONTEXT) as client:
        answers = await asyncio.gather(*(client.get(f"https://localhost:{PORT}/app/{at}") for at in range(50)))
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert [answer.text for answer in answers] == [f"/app/{at} 0" for at in range(50)]
        answer = await client.post(f"https://localhost:{PORT}/app/up", content=b"x" * 1_000_000)
        assert answer.text == "/app/up 1000000", answer.text


async def main():
    for claim in (chat, echo, closes, refusals, requests):
        await claim()
    print("all hold")


asyncio.run(main())
