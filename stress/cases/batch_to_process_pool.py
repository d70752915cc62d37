"""The batch of each layout is sent to a process pool."""

import asyncio
import concurrent.futures as cf
import multiprocessing as mp
import pickle
import sys

from ringdispatch import BackgroundDispatcher, Bytes, Full, Objects, Records


def size(x):
    return len(x)


async def main():
    said = {}
    with cf.ProcessPoolExecutor(1, mp_context=mp.get_context("spawn")) as pool:
        for name, layout, entry in (
            ("objects", Objects(), {"a": 1}),
            ("records", Records([("a", "i4")]), (1,)),
            ("bytes", Bytes(), b"x"),
        ):

            async def send(batch):
                try:
                    said[name] = await asyncio.get_running_loop().run_in_executor(
                        pool, size, batch
                    )
                except Exception as e:
                    said[name] = repr(e)

            d = BackgroundDispatcher(send, ms_delay=5, layout=layout)
            d.enqueue(entry)
            d.enqueue(entry)
            await d.aclose()
    return said


if __name__ == "__main__":
    said = asyncio.run(main())
    pickle.loads(pickle.dumps((Full("x"), Bytes(), Records([("a", "i4")]), Objects())))
    print(said)
    if said != {"objects": 2, "records": 2, "bytes": 2}:
        sys.exit(f"a batch of Bytes can't go to a process pool: {said['bytes']}")
