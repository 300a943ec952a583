"""Exports the network to a file that other programs run without this package: StableHLO for JAX, or ONNX."""

from seemore_jax.exporting.files import check_target, export

__all__ = ["check_target", "export"]
