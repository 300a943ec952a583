"""Compiles programs for TPUs and GPUs on machines without one, and estimates their memory, time and communication.

Nothing is measured on a TPU or a GPU. The figures come from the compiler, or are estimates and marked as such.
"""
