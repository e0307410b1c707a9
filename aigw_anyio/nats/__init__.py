"""What speaks to NATS. Imported only where a NATS source or sink is configured; needs an asyncio event loop.

Nothing in here knows which frontend runs: in the asyncio frontend it shares the event loop, under another one it
lives in an asyncio loop of a thread of its own. What crosses that line is named in :mod:`aigw_anyio.nats.hosting`.
"""
