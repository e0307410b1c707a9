"""Stock clients through the real gateway: the programs of docs/how-to/connect-clients.md, word for word.

They weigh 1.5 GB, so they are not part of the ``dev`` extra. ``python -m tests.clients.install DIR`` puts them into a
folder outside the tree; the tests run where ``AIGW_CLIENTS`` names it, and say so where they are skipped.
"""
