import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

# Plain requests alone: the sockets are at anteroom, and its routes.toml is their routing.
application = get_asgi_application()
