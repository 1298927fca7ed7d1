from django.urls import path, re_path

from chat import views

ROOM = "(?P<room_name>[A-Za-z0-9_-]{1,64})"

urlpatterns = [
    path("", views.index, name="index"),
    path("whoami/", views.whoami, name="whoami"),
    re_path(rf"^chat/{ROOM}/$", views.room, name="room"),
    re_path(rf"^chat/{ROOM}/announce/$", views.announce, name="announce"),
    re_path(rf"^chat/{ROOM}/files/$", views.upload, name="upload"),
    path("files/<uuid:file_id>/", views.download, name="download"),
]
