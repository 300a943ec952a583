"""Programs compiled for TPUs by libtpu on machines without one, and what their text says of memory, time and network.

Nothing here measures a TPU: what is printed are the compiler's figures, and estimates marked as such.
"""
