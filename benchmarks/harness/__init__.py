"""Holds what several benchmarks share, so that each benchmark contains only what it measures.

Modules:
  options: command-line options with the same name and meaning in every benchmark
  networks: networks by name, random images, and compiled programs
  timing: calls that are timed in turns, their medians and ratios
  processes: commands that are run and measured, and the memory of a process
  tables: Markdown tables
  records: the JSON file, the line about the machine, and the exit status
"""
