import asyncio
import contextlib
import json
import signal

from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.conf import settings
from django.core.management.base import BaseCommand

from rooms.groups import group_of
from rooms.models import Line

# channels_redis.core forgets a member of a group after a day unless it is added again.
RENEW_SECONDS = 3600


class Command(BaseCommand):
    help = "Takes part in every room and keeps what is said there, until it is asked to end."

    def handle(self, **options):
        asyncio.run(keep_all())


async def keep_all():
    rooms = asyncio.gather(*(keep(room) for room in settings.ROOMS))
    loop = asyncio.get_running_loop()
    for asked in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(asked, rooms.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await rooms


async def keep(room):
    layer, group = get_channel_layer(), group_of(room)
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    renewal = asyncio.create_task(renew(layer, group, channel))
    try:
        while True:
            event = await layer.receive(channel)
            if event["type"] == "chat.message":
                line = await Line.objects.acreate(room=room, text=str(event["message"]))
                # A socket has said it, not a view: that one is told.
                if "reply_channel" in event:
                    await answer(layer, event["reply_channel"], {"kept": line.id})
    finally:
        renewal.cancel()
        await layer.group_discard(group, channel)


async def answer(layer, channel, content):
    # Too much waits for that server already: it goes without an answer, and this goes on.
    with contextlib.suppress(ChannelFull):
        await layer.send(channel, {"type": "websocket.send", "text": json.dumps(content)})


async def renew(layer, group, channel):
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        await layer.group_add(group, channel)
