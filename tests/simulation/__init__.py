"""The whole gateway, core only, in one thread under a seeded scheduler and clock, with faults injected.

``python -m tests.simulation --exchanges 50000 --seed 1`` runs it; docs: ``CONTRIBUTING.md``. The model that it is
checked against is written from the design, not from the code: how requests and answers are read (`readers`), who
is admitted (`judge`), what one exchange must relay and record (`exchange`), which idle connection is taken
(`provider`). The core is driven through its public names only.
"""
