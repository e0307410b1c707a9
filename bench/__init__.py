"""Benchmarks: :mod:`bench.core` times the core alone, :mod:`bench.run` compares servers side by side."""
