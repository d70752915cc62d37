"""What the relay of the demo calls: it posts entries to the collector, with their ids.

    python -m ringdispatch relay --from redis://127.0.0.1 --stream S --to relayed:post

From the environment: COLLECTOR, where they are posted.
"""

import json
import os
import urllib.request
from collections.abc import Sequence
from typing import Any

COLLECTOR = os.environ.get("COLLECTOR", "http://127.0.0.1:8001/entries")


def as_dict(record: Any) -> Any:
    """An entry, in whichever layout the gateway has it."""
    if isinstance(record, dict):
        return record
    if isinstance(record, bytes):
        return json.loads(record)
    text = {name: record[name].decode() for name in ("request_id", "path")}
    return {**text, "number": int(record["number"])}


def post(records: Sequence[Any], ids: list[str]) -> None:
    """Post them; what the collector does not store comes again."""
    pairs = zip(records, ids, strict=True)
    entries = [as_dict(record) | {"id": own} for record, own in pairs]
    request = urllib.request.Request(
        COLLECTOR,
        json.dumps(entries).encode(),
        {"content-type": "application/json", "idempotency-key": "each has its own"},
    )
    urllib.request.urlopen(request, timeout=30).close()
