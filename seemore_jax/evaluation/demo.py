"""Runs the demo: shrinks photographs of scikit-image, upscales them, and compares the results with bicubic."""

from pathlib import Path

import skimage

from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.image_sets import ImageSet, find_image_sets
from seemore_jax.data.imresize import imresize
from seemore_jax.evaluation.report import evaluate_to_folder, image_table
from seemore_jax.evaluation.routes import Routes, routes_figure
from seemore_jax.inference.upscaling import routing, upscale
from seemore_jax.network import SeemoRe
from seemore_jax.system.files import atomic_write

_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def run_demo(model: SeemoRe, weights: str, output: Path, sets: list[Path]) -> None:
    """Prints the PSNR and SSIM of bicubic and of a model for each photograph, and writes the images into a folder.

    The folder gets the SR images, `results.json`, a comparison of crops (`comparison.png`), and a figure of the experts
    that each layer chose (`experts.png`).

    Args:
      model: the model.
      weights: the name of the model in `results.json`.
      output: the folder, which is created if it is missing.
      sets: folders of more images. Missing folders are left out.

    Raises:
      InputError: an image cannot be used, or `output` cannot be written.
    """
    scale = model.config.scale
    method = f"SeemoRe-{model.config.variant_name}" if model.config.variant_name else "SeemoRe"
    folder = Path(skimage.__file__).parent / "data"
    pairs = tuple(ImagePair(Path(name).stem, folder / name, None) for name in _PHOTOGRAPHS)
    image_sets = [
        ImageSet("photographs", pairs),
        *find_image_sets([path for path in sets if path.is_dir()], scale),
    ]
    results = evaluate_to_folder(image_sets, scale, lambda lr: upscale(model, lr), method, weights, output)
    with atomic_write(output / "experts.png") as temporary:
        routes_figure([_routes(model, pair) for pair in pairs], model.config.ranks).savefig(temporary, dpi=100)
    print(f"PSNR (dB) / SSIM of the luma, ×{scale}")
    for name, scores in results.items():
        print(f"{name}\n{image_table(scores, method)}")
    print(f"SR images, results.json, comparison.png and experts.png are in {output}")


def _routes(model: SeemoRe, pair: ImagePair) -> Routes:
    lr = imresize(pair.read_hr(), 1 / model.config.scale)
    return Routes.of(pair.name, lr, routing(model, lr))
