"""What the servers of test_servers_frameworks.py run: a framework's application.

From the environment: FRAMEWORK, one of those in frameworks.py; and what served.py has.
The entry of a request is its path, as there.
"""

from __future__ import annotations

import os
import signal
import sys

import frameworks
from ringdispatch.asgi import AccessLogMiddleware
from ringdispatch.wsgi import AccessLogMiddleware as WsgiAccessLogMiddleware
from served import CLOSES, dispatcher

framework = os.environ["FRAMEWORK"]
if framework in frameworks.ASGI:
    asgi = AccessLogMiddleware(
        frameworks.ASGI[framework](),
        dispatcher=dispatcher,
        entry=lambda record: record.path,
    )
if framework in frameworks.WSGI:
    wsgi = frameworks.WSGI[framework]()
    options = {"dispatcher": dispatcher, "entry": lambda record: record.path}
    if framework == "flask":  # which `flask run` wants itself
        wsgi.wsgi_app = WsgiAccessLogMiddleware(wsgi.wsgi_app, **options)
    else:
        wsgi = WsgiAccessLogMiddleware(wsgi, **options)
if CLOSES == "sys.exit":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
