"""A field of floats refuses text, bytes and dates as 0-dimensional arrays of numpy."""

import asyncio
import sys

try:
    import numpy as np
except ImportError as error:
    print(error)
    sys.exit(77)
from ringdispatch import BackgroundDispatcher, Records

got, bad = [], []


async def send(b):
    got.extend(b["f"].tolist())


async def main():
    d = BackgroundDispatcher(send, ms_delay=1, layout=Records([("f", "f8")]))
    for scalar in (np.str_("12"), np.bytes_(b"3"), np.datetime64("2020-01-01", "ns")):
        try:
            d.enqueue((scalar,))
            bad.append(("scalar", scalar))
        except TypeError:
            pass
        try:
            d.enqueue((np.array(scalar),))
            bad.append(repr(np.array(scalar)))
        except TypeError:
            pass
    await d.aclose()


asyncio.run(main())
if bad:
    sys.exit(f"BROKEN: accepted {bad} as {got}")
print("ok")
