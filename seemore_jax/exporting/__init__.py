"""The network as one file that other programs run without this package: StableHLO for JAX, and ONNX."""

from seemore_jax.exporting.files import check_target, export

__all__ = ["check_target", "export"]
