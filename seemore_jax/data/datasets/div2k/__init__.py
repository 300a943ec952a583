"""DIV2K. TFDS looks for a builder's checksums in the folder of its module, so each has one of its own."""
