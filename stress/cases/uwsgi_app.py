"""What uwsgi_prefork.py serves."""

import logging
import os

from ringdispatch import BackgroundDispatcher

logging.basicConfig(level=logging.INFO)
OUT = os.environ["OUT"]


def send(batch):
    with open(OUT, "a") as f:
        f.writelines(f"{os.getpid()} {e}\n" for e in batch)


d = BackgroundDispatcher(send, ms_delay=50)
if os.environ.get("AT_IMPORT"):
    d.enqueue("import")
    if os.environ["AT_IMPORT"] == "flushed":
        d.flush()


def application(environ, start_response):
    if environ["PATH_INFO"] == "/stats":
        body = f"{os.getpid()} {d.pending} {d.statistics().dispatched}".encode()
    else:
        d.enqueue(environ["PATH_INFO"])
        body = b"ok"
    start_response(
        "200 OK", [("content-type", "text/plain"), ("content-length", str(len(body)))]
    )
    return [body]
