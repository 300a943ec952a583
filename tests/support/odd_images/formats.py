"""Makes sound files in rare kinds of each format: colour models, sizes, several images in a file, TIFF's options."""

import io
import itertools
import struct
from collections.abc import Iterator

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.support.odd_images.encoders import chunk, png, saved, tiff, webp, with_bytes
from tests.support.odd_images.files import HEIGHT, WIDTH, Odd, Sample, noise


def wrong_suffixes(samples: dict[str, Sample]) -> Iterator[Odd]:
    """Gives sound files the file name extension of another format."""
    for (name, sample), suffix in zip(
        samples.items(), itertools.cycle([".tiff", ".JPG", ".bmp", ".webp"]), strict=False
    ):
        wrong = suffix if suffix.lower() != sample.suffix else ".png"
        yield Odd("wrong extension", f"{name}_as{wrong}", sample.data, (sample.pixels,))


def color_models(rng: np.random.Generator) -> Iterator[Odd]:
    """Makes images with palettes, transparent colours, one bit for each pixel, CMYK, and all channels and depths."""
    indices, palette, alphas = noise(rng) % 8, rng.integers(0, 256, (8, 3), dtype=np.uint8), rng.bytes(8)
    yield from _png_palettes(indices, palette, alphas)
    yield from _png_transparent_colors(rng)
    yield from _channels_and_depths(rng)
    yield from _one_bit(rng)
    yield from _gifs(indices, palette)
    yield from _cmyk(rng)


def _color(name: str, content: bytes, pixels: np.ndarray) -> Odd:
    return Odd("colour model", name, content, (pixels,))


def _png_palettes(indices: np.ndarray, palette: np.ndarray, alphas: bytes) -> Iterator[Odd]:
    with_alpha = np.concatenate([palette, np.frombuffer(alphas, np.uint8)[:, None]], axis=1)[indices]
    entries = chunk(b"PLTE", palette.tobytes())
    yield _color("palette.png", png(indices, before=entries), palette[indices])
    yield _color("palette_alpha.png", png(indices, before=entries + chunk(b"tRNS", alphas)), with_alpha)


def _png_transparent_colors(rng: np.random.Generator) -> Iterator[Odd]:
    """Makes PNG files in which all pixels of one colour are transparent."""
    for name, image in {"": noise(rng), "16": noise(rng, dtype=np.uint16) % 4}.items():
        alpha = np.where(image == image[0, 0], 0, np.iinfo(image.dtype).max).astype(image.dtype)
        key = chunk(b"tRNS", struct.pack(">H", image[0, 0]))
        yield _color(f"grey_key{name}.png", png(image, before=key), np.stack([image, alpha], axis=-1))
    for name, image in {"": noise(rng, 3), "16": noise(rng, 3, dtype=np.uint16)}.items():
        alpha = np.where((image == image[0, 0]).all(axis=-1, keepdims=True), 0, np.iinfo(image.dtype).max)
        key = chunk(b"tRNS", struct.pack(">HHH", *image[0, 0]))
        with_alpha = np.concatenate([image, alpha.astype(image.dtype)], axis=-1)
        yield _color(f"rgb_key{name}.png", png(image, before=key), with_alpha)


def _channels_and_depths(rng: np.random.Generator) -> Iterator[Odd]:
    for dtype, channels in itertools.product((np.uint8, np.uint16), ((), (2,), (3,), (4,))):
        image = noise(rng, *channels, dtype=dtype)
        name = f"{image.dtype}_{image.ndim and image.shape[2:]}".replace(" ", "")
        yield _color(f"interlaced_{name}.png", png(image, interlaced=True), image)
        yield _color(f"plain_{name}.png", png(image), image)
        if dtype == np.uint16:
            yield _color(f"plain_{name}.tif", tiff(image), image)


def _one_bit(rng: np.random.Generator) -> Iterator[Odd]:
    bits = noise(rng) > 127
    for kind, suffix in (("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")):
        yield _color(f"one_bit{suffix}", saved(Image.fromarray(bits), kind), bits.astype(np.uint8) * 255)


def _gifs(indices: np.ndarray, palette: np.ndarray) -> Iterator[Odd]:
    gif = Image.fromarray(indices, "P")
    gif.putpalette(palette.tobytes())
    with_alpha = np.concatenate([palette[indices], np.where(indices == 3, 0, 255)[..., None].astype(np.uint8)], axis=-1)
    yield _color("gif.png", saved(gif, "GIF"), palette[indices])
    yield _color("gif_alpha.png", saved(gif, "GIF", transparency=3), with_alpha)


def _cmyk(rng: np.random.Generator) -> Iterator[Odd]:
    """Makes two CMYK JPEG files with inverted values: Adobe's segment in the first says so, the second has none."""
    cmyk = saved(Image.fromarray(noise(rng, 4), "CMYK"), "JPEG")
    stored = imagecodecs.jpeg8_decode(cmyk, outcolorspace="CMYK").astype(np.int64)
    product = stored[..., :3] * stored[..., 3:] + 128
    rgb = ((product >> 8) + product >> 8).astype(np.uint8)
    start = cmyk.index(b"\xff\xee")
    (length,) = struct.unpack(">H", cmyk[start + 2 : start + 4])
    yield _color("cmyk_adobe.jpg", cmyk, rgb)
    yield _color("cmyk.jpg", cmyk[:start] + cmyk[start + 2 + length :], rgb)


def sizes(rng: np.random.Generator) -> Iterator[Odd]:
    """Makes images with a side of one pixel."""
    for height, width in ((1, 1), (1, 5000), (5000, 1)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        yield Odd("size", f"{width}x{height}.png", png(image), (image,))
        yield Odd("size", f"{width}x{height}.webp", webp(image), (image,))


def several_images(rng: np.random.Generator) -> Iterator[Odd]:
    """Makes files with several images, and TIFF files in which a page is followed by itself."""
    pixels = tuple(noise(rng, 3) for _ in range(3))
    frames = [Image.fromarray(frame) for frame in pixels]
    for kind, suffix in (("PNG", ".png"), ("WEBP", ".webp"), ("GIF", "_gif.png"), ("TIFF", ".tif")):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        yield Odd("several images", f"several{suffix}", content, frames=pixels)
    stream, deep = io.BytesIO(), noise(rng, dtype=np.uint16)
    tifffile.imwrite(stream, np.stack([deep] * 3), photometric="minisblack")
    yield Odd("several images", "several16.tif", stream.getvalue(), frames=(deep,) * 3)
    image = noise(rng, dtype=np.uint16)
    for name, page in {"loop16.tif": image, "loop.tif": (image >> 8).astype(np.uint8)}.items():
        yield Odd("several images", name, _page_loop(tiff(page)), (page,), may_refuse=True)


def _page_loop(data: bytes) -> bytes:
    """Returns the TIFF file with its first page named as the page after it."""
    (first,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[first : first + 2])
    return with_bytes(data, first + 2 + 12 * entries, struct.pack("<I", first))


def tiff_kinds(rng: np.random.Generator) -> Iterator[Odd]:
    """Makes TIFF files in tiles, strips, planes and other layouts, with rare compressions and value types."""
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        rgb, grey = noise(rng, 3, dtype=dtype), noise(rng, dtype=dtype)
        yield _tiff_kind(f"tiled{bits}", tiff(rgb, tile=(16, 16)), rgb)
        yield _tiff_kind(f"tiled_lzw{bits}", tiff(grey, tile=(16, 16), compression="lzw"), grey)
        yield _tiff_kind(f"strips{bits}", tiff(rgb, rowsperstrip=3, compression="packbits"), rgb)
        yield _tiff_kind(f"big_endian{bits}", tiff(rgb, byteorder=">"), rgb)
        yield _tiff_kind(f"predictor{bits}", tiff(rgb, compression="deflate", predictor=True), rgb)
        yield _tiff_kind(f"big{bits}", tiff(rgb, bigtiff=True), rgb, may_refuse=True)
        planes = tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate")
        yield _tiff_kind(f"planar{bits}", planes, rgb, may_refuse=True)
        inverted = np.iinfo(dtype).max - grey
        yield _tiff_kind(f"white_is_zero{bits}", tiff(grey, photometric="miniswhite"), inverted, may_refuse=True)
        five = noise(rng, 5, dtype=dtype)
        content = tiff(five, photometric="rgb", extrasamples=["unspecified"] * 2)
        yield _tiff_kind(f"five_channels{bits}", content, five[..., :3], may_refuse=True)
    compressed = tiff(noise(rng, 3), compression="jpeg", photometric="rgb")
    with tifffile.TiffFile(io.BytesIO(compressed)) as file:
        yield _tiff_kind("jpeg", compressed, file.asarray())
    yield _tiff_kind("float32", tiff(rng.random((HEIGHT, WIDTH), np.float32)))
    yield _tiff_kind("float32_rgb", tiff(rng.random((HEIGHT, WIDTH, 3), np.float32)))
    yield _tiff_kind("uint32", tiff(noise(rng, dtype=np.uint32)))
    yield _tiff_kind("int16", tiff(noise(rng, dtype=np.int16)))
    yield _tiff_kind("complex64", tiff(rng.random((HEIGHT, WIDTH)).astype(np.complex64)))


def _tiff_kind(name: str, content: bytes, *readings: np.ndarray, may_refuse: bool = False) -> Odd:
    return Odd("kind of TIFF", f"{name}.tif", content, readings, may_refuse)
