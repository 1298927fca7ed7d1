import json

from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer


class ChatConsumer(AsyncWebsocketConsumer):
    """A room: what one says, all hear. From step 2 on, anteroom is this consumer."""

    async def connect(self):
        self.group = f"chat_{self.scope['url_route']['kwargs']['room_name']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        message = json.loads(text_data)["message"]
        await self.channel_layer.group_send(self.group, {"type": "chat.message", "message": message})

    async def chat_message(self, event):
        await self.send(text_data=json.dumps({"message": event["message"]}))


class WhoamiConsumer(AsyncWebsocketConsumer):
    """Tells a client what Channels knows about it. It stays a consumer in both steps."""

    async def connect(self):
        await self.accept()
        headers = {name.decode(): value.decode() for name, value in self.scope["headers"]}
        visits = await sync_to_async(self.scope["session"].get)("visits", 0)
        known = {
            "client": self.scope["client"][0],
            "host": headers["host"],
            # Daphne leaves it out for WebSockets.
            "scheme": self.scope.get("scheme", "ws"),
            "user": str(self.scope["user"]),
            "visits": visits,
        }
        await self.send(text_data=json.dumps(known))

    async def receive(self, text_data=None, bytes_data=None):
        await self.close(code=4000)
