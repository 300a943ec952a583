"""The demo: photographs that come with scikit-image, shrunk, upscaled, and compared with the originals."""

from pathlib import Path

import skimage

from seemore_jax.data.image_sets import ImagePair, ImageSet
from seemore_jax.evaluation.report import evaluate_to_folder, image_table
from seemore_jax.inference import upscale
from seemore_jax.network import SeemoRe

_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def run_demo(model: SeemoRe, weights: str, output: Path) -> None:
    """Prints PSNR/SSIM of bicubic and of the model for each photograph, and writes pictures into `output`.

    `weights` is what `results.json` calls the model.
    """
    scale = model.config.scale
    method = f"SeemoRe-{model.config.variant_name}" if model.config.variant_name else "SeemoRe"
    folder = Path(skimage.__file__).parent / "data"
    pairs = tuple(ImagePair(Path(name).stem, folder / name, None) for name in _PHOTOGRAPHS)
    sets = [ImageSet("photographs", pairs)]
    results = evaluate_to_folder(sets, scale, lambda lr: upscale(model, lr), method, weights, output)
    print(f"PSNR (dB) / SSIM of the luma, ×{scale}")
    print(image_table(results["photographs"], method))
    print(f"SR images, results.json and comparison.png are in {output}")
