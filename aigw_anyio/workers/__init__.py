"""Several processes that share one port: a supervisor without an event loop, workers, and one admin listener for all.

The supervisor forks every process before it has a loop or a thread, and again whenever one has died. A worker is what
a gateway of one process is, with parts of its own (deny feed, snapshot, spool, readiness) and three that it shares:
the port, the counters of the limiter and standard output.
"""
