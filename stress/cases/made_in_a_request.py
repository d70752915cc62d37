"""The first request makes the dispatcher: no batch runs in that request's context."""

import asyncio
import contextvars
import sys

from ringdispatch import BackgroundDispatcher

request_id = contextvars.ContextVar("request_id", default=None)
seen, made = [], {}


async def send(batch):
    seen.append((list(batch), request_id.get()))


def dispatcher_of(tenant):
    if tenant not in made:
        made[tenant] = BackgroundDispatcher(send, ms_delay=5)
    return made[tenant]


async def handler(number):
    request_id.set(f"request-{number}")
    dispatcher_of("blue").enqueue(number)


async def main():
    for number in range(3):
        await asyncio.create_task(handler(number))
        await asyncio.sleep(0.02)
    await made["blue"].aclose()


asyncio.run(main())
bad = [s for s in seen if s[1] is not None]
if bad:
    sys.exit(f"C19: batches saw a request's context: {bad}")
