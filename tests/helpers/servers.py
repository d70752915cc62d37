"""How each server of docs/servers.md is started, and what it needs."""

from __future__ import annotations

from serving import PROGRAMS


def gunicorn(kind: str, app: str, workers: int = 1) -> list[str]:
    options = ["--bind", "fd://{fd}", "--workers", str(workers), "--preload"]
    quiet = ["--no-control-socket", "--log-level", "warning"]
    return ["-m", "gunicorn", *options, *quiet, "--worker-class", kind, app]


def celery(pool: str, app: str = "served_celery", *more: str) -> list[str]:
    options = ["--pool", pool, "--concurrency", "1", "--loglevel", "WARNING"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return ["-m", "celery", "-A", app, "worker", *options, *quiet, *more]


def granian(interface: str, workers: int = 1) -> list[str]:
    options = ["--interface", interface, "--workers", str(workers)]
    return ["-m", "granian", *options, *GRANIAN, f"served:{interface}"]


def uwsgi(*options: str) -> list[str]:
    call = "import pyuwsgi; pyuwsgi.run()"  # the same program as `uwsgi`
    return ["-c", call, *UWSGI, *options, "--module", "served:wsgi"]


GRANIAN = ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "error"]
UWSGI = ["--http-socket", "fd://{fd}", "--master", "--enable-threads", "--need-app"]
UWSGI += ["--disable-logging", "--hook-master-start"]
UWSGI += ["unix_signal:15 gracefully_kill_them_all"]
UVICORN = ["-m", "uvicorn", "--fd", "{fd}", "--log-level", "warning", "served:asgi"]
HYPERCORN = ["-m", "hypercorn", "--bind", "fd://{fd}", "--log-level", "warning"]
SERVED = str(PROGRAMS / "served.py")
SERVED_WEB = str(PROGRAMS / "served_web.py")

COMMANDS = {
    "uvicorn": UVICORN,
    "uvicorn-workers": [*UVICORN, "--workers", "2"],
    "hypercorn": [*HYPERCORN, "served:asgi"],
    "hypercorn-workers": [*HYPERCORN, "--workers", "2", "served:asgi"],
    "gunicorn-sync": gunicorn("sync", "served:wsgi"),
    "gunicorn-gthread": gunicorn("gthread", "served:wsgi"),
    "gunicorn-gevent": gunicorn("gevent", "served:wsgi"),
    "gunicorn-uvicorn": gunicorn("uvicorn_worker.UvicornWorker", "served:asgi"),
    "granian-asgi": granian("asgi"),
    "granian-workers": granian("asgi", workers=2),
    "granian-wsgi": granian("wsgi"),
    "daphne": ["-m", "daphne", "--fd", "{fd}", "-v", "0", "served:asgi"],
    "uwsgi": uwsgi("--lazy-apps"),
    "uwsgi-prefork": uwsgi("--processes", "2", "--py-call-uwsgi-fork-hooks"),
    "aiohttp": [SERVED_WEB, "aiohttp", "{fd}"],
    "waitress": [SERVED_WEB, "waitress", "{fd}"],
    "eventlet": [SERVED_WEB, "eventlet", "{fd}"],
    "eventlet-patched": [SERVED_WEB, "eventlet-patched", "{fd}"],
    "celery-prefork": celery("prefork"),
    "celery-solo": celery("solo"),
    "script": [SERVED, "script", "signal"],
    "asyncio.run": [SERVED, "asyncio.run", "signal"],
}
# With a framework's application, and a middleware that has the life of the dispatcher.
FRAMEWORKS = {
    "fastapi-uvicorn": "fastapi",
    "django-uvicorn": "django",
    "django-gunicorn": "django",
    "flask-gunicorn": "flask",
}


def of_framework(name: str) -> list[str]:
    """The command of a server, with served_frameworks.py in the place of served.py."""
    return [part.replace("served:", "served_frameworks:") for part in COMMANDS[name]]


COMMANDS |= {
    "fastapi-uvicorn": of_framework("uvicorn"),
    "django-uvicorn": of_framework("uvicorn"),
    "django-gunicorn": of_framework("gunicorn-gthread"),
    "flask-gunicorn": of_framework("gunicorn-gthread"),
}
WEB = {
    name for name in COMMANDS if not name.startswith(("celery", "script", "asyncio"))
}
# They tell the application of no start.
SILENT = {"granian-wsgi", "daphne", "uwsgi", "uwsgi-prefork", *FRAMEWORKS}
PACKAGES = {
    "uvicorn": ["uvicorn"],
    "uvicorn-workers": ["uvicorn"],
    "hypercorn": ["hypercorn"],
    "hypercorn-workers": ["hypercorn"],
    "gunicorn-sync": ["gunicorn"],
    "gunicorn-gthread": ["gunicorn"],
    "gunicorn-gevent": ["gunicorn", "gevent"],
    "gunicorn-uvicorn": ["gunicorn", "uvicorn", "uvicorn_worker"],
    "granian-asgi": ["granian"],
    "granian-workers": ["granian"],
    "granian-wsgi": ["granian"],
    "daphne": ["daphne"],
    "uwsgi": ["pyuwsgi"],
    "uwsgi-prefork": ["pyuwsgi"],
    "aiohttp": ["aiohttp"],
    "waitress": ["waitress"],
    "eventlet": ["eventlet"],
    "eventlet-patched": ["eventlet"],
    "celery-prefork": ["celery"],
    "celery-solo": ["celery"],
    "fastapi-uvicorn": ["fastapi", "uvicorn"],
    "django-uvicorn": ["django", "uvicorn"],
    "django-gunicorn": ["django", "gunicorn"],
    "flask-gunicorn": ["flask", "gunicorn"],
}
