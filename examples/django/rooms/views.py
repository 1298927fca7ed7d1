from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from rooms.groups import group_of
from rooms.models import Line


@require_GET
def index(request):
    return redirect("room", room=settings.ROOMS[0])


@require_GET
def room(request, room):
    return render(request, "rooms/room.html", {"room": room, "rooms": settings.ROOMS, "lines": Line.latest(room)})


@require_POST
def say(request, room):
    """Says something in a room: to the sockets at anteroom, and to whoever listens in Python."""
    event = {"type": "chat.message", "message": request.POST.get("message", "")}
    async_to_sync(get_channel_layer().group_send)(group_of(room), event)
    # A form that is answered so leaves the page where it is.
    return HttpResponse(status=204)


@require_GET
def lines(request, room):
    """What `manage.py keep` has heard."""
    return JsonResponse({"lines": [line.text for line in Line.latest(room)]})
