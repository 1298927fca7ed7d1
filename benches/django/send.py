"""Sends each line that it reads to the room, as a view of Django does, and says when that was done.

A view runs on a thread beside the loop of its server, and so does this: `async_to_sync` goes through that loop, with
one connection to Redis for all calls.
"""

import asyncio
import sys

from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer

GROUP = sys.argv[1]


def view(message):
    event = {"type": "chat.message", "message": message}
    async_to_sync(get_channel_layer().group_send)(GROUP, event)


async def main():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await sync_to_async(view)(line.decode().rstrip("\n"))
        print("sent", flush=True)


asyncio.run(main())
