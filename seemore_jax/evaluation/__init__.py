"""Measuring super-resolution: metrics, benchmark sets, reports."""
