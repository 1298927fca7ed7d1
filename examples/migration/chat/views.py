import hashlib
import uuid

from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.http import Http404, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

CHUNK = 64 * 1024


def say(room_name, message):
    """Says something to everybody in a room, wherever their sockets are held."""
    event = {"type": "chat.message", "message": message}
    async_to_sync(get_channel_layer().group_send)(f"chat_{room_name}", event)


@require_GET
def index(request):
    return redirect("room", room_name="lobby")


@require_GET
def room(request, room_name):
    visits = request.session["visits"] = request.session.get("visits", 0) + 1
    return render(request, "chat/room.html", {"room_name": room_name, "visits": visits})


@require_POST
def announce(request, room_name):
    """The form of the page."""
    say(room_name, f"announcement: {request.POST['message']}")
    return redirect("room", room_name=room_name)


@require_POST
def upload(request, room_name):
    """Keeps the body of a request as a file, and tells the room."""
    file_id, size, digest = uuid.uuid4(), 0, hashlib.sha256()
    settings.MEDIA_ROOT.mkdir(exist_ok=True)
    with open(settings.MEDIA_ROOT / str(file_id), "wb") as file:
        while chunk := request.read(CHUNK):
            size += len(chunk)
            digest.update(chunk)
            file.write(chunk)
    url = reverse("download", args=[file_id])
    say(room_name, f"a file of {size} bytes: {request.build_absolute_uri(url)}")
    return JsonResponse({"url": url, "size": size, "sha256": digest.hexdigest()}, status=201)


@require_GET
async def download(request, file_id):
    path = settings.MEDIA_ROOT / str(file_id)
    if not path.exists():
        raise Http404

    async def chunks():
        with open(path, "rb") as file:
            while chunk := await sync_to_async(file.read)(CHUNK):
                yield chunk

    headers = {"Content-Length": path.stat().st_size, "Content-Disposition": "attachment"}
    return StreamingHttpResponse(chunks(), content_type="application/octet-stream", headers=headers)


@require_GET
def whoami(request):
    """What Django knows of the client: look here when something is wrong behind a proxy."""
    return JsonResponse(
        {
            "client": request.META["REMOTE_ADDR"],
            "host": request.get_host(),
            "scheme": request.scheme,
            "url": request.build_absolute_uri(),
            "user": str(request.user),
            "visits": request.session.get("visits", 0),
        }
    )
