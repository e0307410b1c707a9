"""Mutation check of the core: ``python -m tests.mutate``; see ``__main__``."""
