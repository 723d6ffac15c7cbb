"""A loop that does nothing but poll, with the gateway's own session: what a poll by aiohttp's own requests costs.

`python -m tests.bench.bare URL JOBS` polls until it is killed.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys

import uvloop
from yarl import URL

from gateway.outbound.sessions import POLL_SECONDS, upstream_session

EVERY = 1.0


async def poll(url: str, jobs: int) -> None:
    """Poll so many monitors for ever, each a second after its last answer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)  # as the gateway has it
    async with upstream_session(POLL_SECONDS) as session:

        async def follow(monitor: int) -> None:
            target = URL(f"{url}/monitor/{monitor}", encoded=True)
            await asyncio.sleep(random.uniform(0, EVERY))
            while True:
                async with session.get(target, allow_redirects=False) as response:
                    await response.read()
                await asyncio.sleep(EVERY)

        await asyncio.gather(*(follow(number) for number in range(1, jobs + 1)))


if __name__ == "__main__":
    uvloop.run(poll(sys.argv[1], int(sys.argv[2])))
