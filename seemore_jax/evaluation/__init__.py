"""Evaluates super-resolution: metrics, benchmarks and reports."""
