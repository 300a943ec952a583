"""The demo: shrinks photographs of scikit-image, and further sets, upscales them, and compares with bicubic."""

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
    """Prints PSNR/SSIM of bicubic and of the model for each photograph, and writes pictures into `output`.

    These are the SR images, a comparison and a figure of the experts that each layer chose. `weights` is what
    `results.json` calls the model; `sets` are folders of further images, of which missing ones are left out.
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
