"""A Django project with Channels. What it has to know of anteroom stands at the end."""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
# Everything that the project writes.
DATA_DIR = Path(os.environ.get("DATA_DIR", BASE_DIR / "var"))

# Without one, sessions end with the process.
SECRET_KEY = os.environ.get("SECRET_KEY") or get_random_secret_key()

INSTALLED_APPS = [
    "daphne",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA_DIR / "db.sqlite3"}}

TIME_ZONE = "UTC"

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
MEDIA_ROOT = DATA_DIR / "files"

# The same Redis, backend, prefix and keys as `[layer]` in step-2.toml.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")]},
    }
}

# --- Behind anteroom ---

# As `hosts` there: it passes the client's own Host on, so there is no need for USE_X_FORWARDED_HOST.
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

# Django is asked over plain HTTP. Without this it would take every request for insecure, and refuse forms whose
# Origin says https. Only anteroom may reach the application's port, or a client could say so itself.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# All comes over TLS.
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
