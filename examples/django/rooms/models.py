from django.db import models


class Line(models.Model):
    """What somebody has said in a room."""

    room = models.CharField(max_length=32, db_index=True)
    text = models.TextField()
    said_at = models.DateTimeField(auto_now_add=True)

    @classmethod
    def latest(cls, room):
        """The last twenty of a room, the oldest first."""
        return list(cls.objects.filter(room=room).order_by("-id")[:20])[::-1]
