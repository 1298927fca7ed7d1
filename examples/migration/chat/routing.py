from django.urls import re_path

from chat.consumers import ChatConsumer, WhoamiConsumer

websocket_urlpatterns = [
    re_path(r"^ws/chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$", ChatConsumer.as_asgi()),
    re_path(r"^ws/whoami/$", WhoamiConsumer.as_asgi()),
]
