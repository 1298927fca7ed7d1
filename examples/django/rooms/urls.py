from django.conf import settings
from django.urls import path, re_path

from rooms import views

ROOM = f"^rooms/(?P<room>{'|'.join(settings.ROOMS)})/"

urlpatterns = [
    path("", views.index, name="index"),
    re_path(f"{ROOM}$", views.room, name="room"),
    re_path(f"{ROOM}say/$", views.say, name="say"),
    re_path(f"{ROOM}lines/$", views.lines, name="lines"),
]
