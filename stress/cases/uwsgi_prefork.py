"""uWSGI imports the application before it forks: each worker starts empty and delivers.

Arguments: when to enqueue at import (fresh, import, flushed), then options of uWSGI.
"""

import collections
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

mode = sys.argv[1] if len(sys.argv) > 1 else "flushed"
extra = sys.argv[2:] or ["--enable-threads"]
here = pathlib.Path(__file__).parent
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
out = tempfile.mktemp()
open(out, "w").close()
log = tempfile.mktemp()
env = {**os.environ, "OUT": out}
if mode != "fresh":
    env["AT_IMPORT"] = mode
# The same program as `uwsgi`, as a module: that needs no libpython to link with.
if importlib.util.find_spec("pyuwsgi") is None:
    print("No module named 'pyuwsgi'")
    sys.exit(77)
p = subprocess.Popen(
    [
        sys.executable,
        "-c",
        "import pyuwsgi; pyuwsgi.run()",
        "--http-socket",
        f"127.0.0.1:{port}",
        "--wsgi-file",
        here / "uwsgi_app.py",
        "--master",
        "--processes",
        "2",
        "--need-app",
        "--die-on-term",
        "--pythonpath",
        here,
        *extra,
    ],
    env=env,
    stdout=subprocess.DEVNULL,
    stderr=open(log, "w"),
)
try:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=2).read()
            break
        except OSError:
            time.sleep(0.1)
    for i in range(40):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{i}", timeout=5).read()
    time.sleep(1.0)
    live = [l.split()[1] for l in open(out)]
    stats = {
        urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=5).read()
        for _ in range(6)
    }
finally:
    p.send_signal(signal.SIGTERM)
    try:
        p.wait(15)
    except subprocess.TimeoutExpired:
        p.kill()
        print("uwsgi had to be killed")
end = collections.Counter(l.split()[1] for l in open(out))
want = {f"/{i}" for i in range(40)} | ({"import"} if mode != "fresh" else set())
lost = want - set(end)
twice = {
    k: v
    for k, v in end.items()
    if v > 1 and not (k == "import" and "--lazy-apps" in extra)
}
print(
    mode,
    extra,
    "live",
    len(set(live) & want),
    "of",
    len(want),
    "at end",
    len(set(end)),
    "twice",
    twice,
    "stats",
    sorted(stats),
)
said = [l.strip() for l in open(log) if "abandoned" in l or "Traceback" in l]
print("the log:", said or "no line about them")
if lost or twice or len(set(live) & want) < len(want):
    sys.exit(
        f"uWSGI {mode} {extra}: one second later {len(want - set(live))} not sent, at the end {len(lost)} lost, {len(twice)} sent twice"
    )
