"""Compiles programs for TPUs on machines without a TPU, and estimates their memory, time and communication.

Nothing is measured on a TPU. The figures come from the compiler (libtpu), or are estimates and marked as such.
"""
