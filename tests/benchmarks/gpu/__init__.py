"""Checks and timings that need a GPU; run by hand where one is: ``python -m tests.benchmarks.gpu.model``."""
