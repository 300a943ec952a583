"""Builds the training set DIV2K.

Each builder has its own folder, because TFDS looks for checksums in the folder of the builder's module.
"""
