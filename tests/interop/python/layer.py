"""A layer of channels_redis, as a Django process uses it, driven by lines of JSON.

The first argument is the layer, "pubsub" or "core", the second are the settings of CONFIG. Each line of the input is a call, each line of the output its
result or a message that a group has received. Bytes are {"__bytes__": base64}.
"""

import asyncio
import base64
import json
import sys

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import create_pool, decode_hosts
from redis.asyncio import Redis

KIND = sys.argv[1]
CONFIG = json.loads(sys.argv[2])
LAYER = {"pubsub": RedisPubSubChannelLayer, "core": RedisChannelLayer}[KIND](**CONFIG)
HOSTS = [Redis(connection_pool=create_pool(host)) for host in decode_hosts(CONFIG["hosts"])]


def decode(members):
    return base64.b64decode(members["__bytes__"]) if "__bytes__" in members else members


def encode(value):
    if isinstance(value, bytes):
        return {"__bytes__": base64.b64encode(value).decode()}
    raise TypeError(f"{value!r} has no place in JSON")


def say(**members):
    print(json.dumps(members, default=encode), flush=True)


async def receive(channel):
    """What an AsyncConsumer does with its channel."""
    while True:
        say(received=await LAYER.receive(channel))


async def join(group):
    if KIND == "core":
        channel = await LAYER.new_channel()
        await LAYER.group_add(group, channel)
        return asyncio.create_task(receive(channel))
    name = f"{CONFIG.get('prefix', 'asgi')}__group__{group}"

    async def subscribers():
        return sum([(await host.pubsub_numsub(name))[0][1] for host in HOSTS])

    before = await subscribers()
    channel = await LAYER.new_channel()
    await LAYER.group_add(group, channel)
    # group_add returns before Redis has confirmed it.
    while await subscribers() == before:
        await asyncio.sleep(0.01)
    return asyncio.create_task(receive(channel))


async def publish(channel, payload):
    """Whatever else may be on the same Redis."""
    return await HOSTS[0].publish(channel, payload)


async def group_add(group, channel):
    """A consumer that takes nothing yet: what is sent to it waits."""
    await LAYER.group_add(group, f"specific.{LAYER.client_prefix}!{channel}")


async def listen(channel):
    """It begins to take what has waited."""
    return asyncio.create_task(receive(f"specific.{LAYER.client_prefix}!{channel}"))


async def consume():
    """A consumer, by the name of its channel."""
    channel = await LAYER.new_channel()
    task = asyncio.create_task(receive(channel))
    if KIND == "pubsub":
        # new_channel returns before Redis has confirmed it.
        while not sum([(await host.pubsub_numsub(channel))[0][1] for host in HOSTS]):
            await asyncio.sleep(0.01)
    say(channel=channel)
    return task


async def work(channel):
    """A worker of a general channel."""
    return asyncio.create_task(receive(channel))


CALLS = {
    "consume": consume,
    "work": work,
    "join": join,
    "group_send": LAYER.group_send,
    "publish": publish,
    "send": LAYER.send,
    "group_add": group_add,
    "add_channel": LAYER.group_add,
    "discard_channel": LAYER.group_discard,
    "listen": listen,
}


async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = []
    while line := await reader.readline():
        call, *arguments = json.loads(line, object_hook=decode)
        try:
            tasks.append(await CALLS[call](*arguments))
            say(done=call)
        except Exception as error:
            say(failed=repr(error))


asyncio.run(main())
