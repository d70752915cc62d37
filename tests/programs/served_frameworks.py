"""What the servers of test_servers_frameworks.py run: a framework's application.

From the environment: FRAMEWORK, one of those in frameworks.py; and what served.py has.
The entry of a request is its path, as there.
"""

from __future__ import annotations

import os

import frameworks
from ringdispatch.asgi import AccessLogMiddleware
from ringdispatch.wsgi import AccessLogMiddleware as WsgiAccessLogMiddleware
from served import dispatcher

framework = os.environ["FRAMEWORK"]
if framework in frameworks.ASGI:
    asgi = AccessLogMiddleware(
        frameworks.ASGI[framework](),
        dispatcher=dispatcher,
        entry=lambda record: record.path,
    )
if framework in frameworks.WSGI:
    wsgi = WsgiAccessLogMiddleware(
        frameworks.WSGI[framework](),
        dispatcher=dispatcher,
        entry=lambda record: record.path,
    )
