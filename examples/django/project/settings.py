"""A Django project with a channel layer, behind anteroom."""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent

# Nothing here is signed.
SECRET_KEY = get_random_secret_key()

# As `hosts` in routes.toml.
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

INSTALLED_APPS = ["channels", "rooms"]

# No sessions, so no cookies, and nothing that a form of another site could make use of: a project that has them
# keeps CsrfViewMiddleware.
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "var/db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True

# The rooms that there are, as in the pattern of routes.toml.
ROOMS = ["lobby", "kitchen"]

BACKENDS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}

# The same backend, Redis, prefix and keys as `[layer]` in routes.toml.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": BACKENDS[os.environ.get("LAYER", "pubsub")],
        "CONFIG": {
            "hosts": [
                {
                    "address": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
                    # From redis-py 8 on a read times out after 5 s unless told otherwise. That is as long as
                    # channels_redis.core waits for a message, so whoever listens would end in a quiet room.
                    "socket_timeout": None,
                }
            ],
        },
    }
}
