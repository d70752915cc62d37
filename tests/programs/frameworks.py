"""One application in each framework, for tests of the middlewares.

`/{name}` answers with the pid of the process, and so does a POST with its body; `/fail`
raises, `/stream` answers in three parts.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

PARTS = (b"a", b"b", b"c")


async def parts() -> AsyncIterator[bytes]:
    for part in PARTS:
        yield part


def plain_parts() -> Iterator[bytes]:
    yield from PARTS


def pid_or_fail(name: str) -> str:
    if name == "fail":
        raise LookupError("no such order")
    return str(os.getpid())


def starlette(**options: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    async def answer(request: Any) -> Any:
        name = request.path_params["name"]
        if name == "stream":
            return StreamingResponse(parts())
        if request.method == "POST":
            return PlainTextResponse(await request.body())
        return PlainTextResponse(pid_or_fail(name))

    routes = [Route("/{name}", answer, methods=["GET", "POST"])]
    return Starlette(routes=[*routes, *options.pop("routes", [])], **options)


def fastapi(**options: Any) -> Any:
    from fastapi import APIRouter, FastAPI, Request
    from fastapi.responses import PlainTextResponse, StreamingResponse

    router = APIRouter(prefix="/{tenant}")

    @router.get("/orders/{number}")
    def order(tenant: str, number: int) -> int:
        return number

    async def answer(name: str, request: Request) -> Any:
        if name == "stream":
            return StreamingResponse(parts())
        if request.method == "POST":
            return PlainTextResponse(await request.body())
        return PlainTextResponse(pid_or_fail(name))

    answer.__annotations__ = {"name": str, "request": Request}
    app = FastAPI(**options)
    app.include_router(router, prefix="/api")
    app.add_api_route("/{name}", answer, methods=["GET", "POST"], response_model=None)
    return app


def litestar(**options: Any) -> Any:
    from litestar import Litestar, Request, get, post
    from litestar.response import Response, Stream

    async def answer(request: Any) -> Any:
        name = request.path_params["name"]
        if name == "stream":
            return Stream(parts())
        return Response(pid_or_fail(name), media_type="text/plain")

    async def echo(request: Any) -> Any:
        return Response(await request.body(), media_type="text/plain")

    answer.__annotations__ = {"request": Request, "return": Response}
    echo.__annotations__ = {"request": Request, "return": Response}
    handlers = [get("/{name:str}")(answer), post("/{name:str}", status_code=200)(echo)]
    options = {"logging_config": None, "openapi_config": None, **options}
    return Litestar(route_handlers=handlers, **options)


def quart() -> Any:
    from quart import Quart, request

    app = Quart(__name__)

    @app.route("/<name>", methods=["GET", "POST"])
    async def answer(name: str) -> Any:
        if name == "stream":
            return parts(), {"content-type": "text/plain"}
        if request.method == "POST":
            return await request.get_data()
        return pid_or_fail(name)

    return app


def flask() -> Any:
    from flask import Flask, request

    app = Flask(__name__)

    @app.route("/<name>", methods=["GET", "POST"])
    def answer(name: str) -> Any:
        if name == "stream":
            return plain_parts(), {"content-type": "text/plain"}
        if request.method == "POST":
            return request.get_data()
        return pid_or_fail(name)

    return app


def set_up_django() -> None:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="s", MIDDLEWARE=[]
        )
        django.setup()


def django_asgi() -> Any:
    set_up_django()
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def django_wsgi() -> Any:
    set_up_django()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def _django_view(request: Any, name: str) -> Any:
    from django.http import HttpResponse, StreamingHttpResponse

    if name == "stream":
        is_async = hasattr(request, "scope")
        return StreamingHttpResponse(parts() if is_async else plain_parts())
    if request.method == "POST":
        return HttpResponse(request.body)
    return HttpResponse(pid_or_fail(name), content_type="text/plain")


def __getattr__(name: str) -> Any:
    if name == "urlpatterns":  # of Django
        from django.urls import path

        return [path("<name>", _django_view)]
    raise AttributeError(name)


ASGI: dict[str, Callable[..., Any]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart,
    "django": django_asgi,
}
WSGI: dict[str, Callable[..., Any]] = {"flask": flask, "django": django_wsgi}
