"""Damaged and odd image files, made from a seed, each with what it shows if it shows anything.

Pixels are known because the file was made from them, by the PNG writer below, Pillow or tifffile; for lossy formats and
flipped bits they are what the decoders say that seemore_jax does not use for them, or Pillow or tifffile directly.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import random
import socket
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps

HEIGHT, WIDTH = 20, 24  # of nearly all, since each size is a program to compile
HUGE, LARGE = 100_000, 13_000  # sides that are claimed: beyond the limit, and just within
BOMB_MEGABYTES = 3000
_MOST_READ = 2**20  # pixels of a damaged file
_PNG_COLOR = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


@dataclasses.dataclass(frozen=True)
class Odd:
    """A file to be.

    Attributes:
      kind: what is odd about it.
      name: its path within the folder.
      content: its bytes, or what puts it at a path.
      readings: what may be upscaled, uint8 or uint16; if there are none, the file has to be refused.
      may_refuse: it may be refused all the same.
    """

    kind: str
    name: str
    content: bytes | Callable[[Path], None]
    readings: tuple[np.ndarray, ...] = ()
    may_refuse: bool = False

    def put(self, folder: Path) -> Path:
        """Makes it below a folder."""
        path = folder / self.name
        path.parent.mkdir(exist_ok=True)
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        return path


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sound file, and what it shows."""

    suffix: str
    data: bytes
    pixels: np.ndarray


def odd_images(count: int, seed: int) -> list[Odd]:
    """That many different ones: all kinds in turn, and whatever is left over truncated or with flipped bits."""
    rng = np.random.default_rng(seed)
    samples = _samples(rng)
    kinds = [
        *(_not_images(rng), _wrong_suffixes(samples), _colors(rng), _sizes(rng), _several_images(rng)),
        *(_claims(samples), _bombs(rng), _orientations(samples), _profiles(samples), _tiff_kinds(rng)),
        *(_names(samples), _file_system(samples)),
    ]
    special = [list(kind) for kind in kinds]
    if count < sum(map(len, special)):
        mixed = random.Random(seed)
        special = [mixed.sample(kind, len(kind)) for kind in special]
    in_turn = [odd for row in itertools.zip_longest(*special) for odd in row if odd is not None]
    most = max(count // 2, count - len(in_turn))
    damaged = itertools.islice(_damaged(rng, samples), most)
    return [*in_turn[: count - most], *damaged]


def good_images(seed: int) -> list[Odd]:
    """Sound files of common kinds, which have to be upscaled whatever lies beside them."""
    samples = _samples(np.random.default_rng(seed + 1))
    return [
        Odd("sound", f"good_{name}{sample.suffix}", sample.data, (sample.pixels,)) for name, sample in samples.items()
    ]


# Encoders.


def png(
    pixels: np.ndarray, *, interlaced: bool = False, before: bytes = b"", claims: int = 0, data: bytes | None = None
) -> bytes:
    """A PNG file of 8 or 16 bits.

    Args:
      pixels: (H, W) or (H, W, 1 to 4).
      interlaced: by Adam7.
      before: chunks before the pixels; a palette among them makes `pixels` its indices.
      claims: both sides, as the header says them.
      data: compressed, in the place of the pixels.
    """
    image = pixels.reshape(*pixels.shape[:2], -1)
    height, width, channels = image.shape
    color = 3 if b"PLTE" in before else _PNG_COLOR[channels]
    header = (claims or width, claims or height, 8 * image.itemsize, color, 0, 0, int(interlaced))
    passes = [image[y::dy, x::dx] for y, x, dy, dx in (_ADAM7 if interlaced else ((0, 0, 1, 1),))]
    content = zlib.compress(b"".join(_scan_lines(part) for part in passes if part.size)) if data is None else data
    end = chunk(b"IDAT", content) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + before + end


def _scan_lines(image: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in image.astype(image.dtype.newbyteorder(">")))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _saved(image: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    """By Pillow."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
    return stream.getvalue()


def _tiff(image: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    photometric = "rgb" if image.shape[2:] in ((3,), (4,)) else "minisblack"
    extra = ["unassalpha"] if image.shape[2:] in ((2,), (4,)) else None
    defaults = {
        "photometric": photometric,
        "extrasamples": extra,
        "planarconfig": "contig" if image.ndim == 3 else None,
    }
    tifffile.imwrite(stream, image, metadata=None, **{**defaults, **options})
    return stream.getvalue()


def _webp(image: np.ndarray, **options: Any) -> bytes:
    return _saved(image, "WEBP", lossless=True, exact=True, **options)


def _zeros_deflated() -> bytes:
    """A zlib stream of `BOMB_MEGABYTES` of zeros."""
    coder = zlib.compressobj(9)
    head = coder.compress(bytes(2**20)) + coder.flush(zlib.Z_FULL_FLUSH)
    block = coder.compress(bytes(2**20)) + coder.flush(zlib.Z_FULL_FLUSH)
    size = BOMB_MEGABYTES * 2**20
    return head + block * (BOMB_MEGABYTES - 1) + b"\x03\0" + struct.pack(">I", size % 65521 << 16 | 1)


def _noise(rng: np.random.Generator, *channels: int, dtype: Any = np.uint8) -> np.ndarray:
    return rng.integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, *channels), dtype=dtype)


def _samples(rng: np.random.Generator) -> dict[str, Sample]:
    rgb, grey, rgba = _noise(rng, 3), _noise(rng), _noise(rng, 4)
    rgb16, grey16, rgba16 = (_noise(rng, *c, dtype=np.uint16) for c in ((3,), (), (4,)))
    jpegs = {
        "jpeg": _saved(rgb, "JPEG"),
        "progressive": _saved(rgb, "JPEG", progressive=True),
        "grey_jpeg": _saved(grey, "JPEG"),
    }
    return {
        "png": Sample(".png", png(rgb), rgb),
        "rgba": Sample(".png", png(rgba), rgba),
        "png16": Sample(".png", png(rgb16), rgb16),
        "grey16": Sample(".png", png(grey16), grey16),
        **{name: Sample(".jpg", data, imagecodecs.jpeg8_decode(data)) for name, data in jpegs.items()},
        "webp": Sample(".webp", _webp(rgba), rgba),
        "bmp": Sample(".bmp", _saved(rgb, "BMP"), rgb),
        "tiff": Sample(".tif", _tiff(rgb), rgb),
        "deflated_tiff": Sample(".tif", _tiff(rgb, compression="deflate"), rgb),
        "tiff16": Sample(".tiff", _tiff(rgba16), rgba16),
        "lzw_tiff16": Sample(".tiff", _tiff(grey16, compression="lzw", predictor=True), grey16),
    }


# Kinds.


def _damaged(rng: np.random.Generator, samples: dict[str, Sample]) -> Iterator[Odd]:
    """Files cut off, with flipped bits, and with a stretch overwritten, without end."""
    for number in itertools.count():
        name, sample = list(samples.items())[number // 3 % len(samples)]
        kind = ("truncated", "flipped bits", "overwritten")[number % 3]
        data = bytearray(sample.data)
        if kind == "truncated":
            del data[rng.integers(len(data)) :]
        elif kind == "flipped bits":
            for bit in rng.integers(8 * len(data), size=rng.integers(1, 9)):
                data[bit // 8] ^= 1 << bit % 8
        else:
            start = rng.integers(len(data))
            data[start : start + 16] = rng.bytes(len(data[start : start + 16]))
        # Nothing may be made up for what was cut off.
        readings = () if kind == "truncated" else _direct_readings(bytes(data))
        yield Odd(
            kind, f"{number:03}_{name}_damaged{sample.suffix}", bytes(data), (sample.pixels, *readings), may_refuse=True
        )


def _direct_readings(data: bytes) -> tuple[np.ndarray, ...]:
    """What Pillow and tifffile make of bytes, as far as they do."""
    readings = []
    kept = {"1": "L"} | {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "I;16")}
    # Nearly anything is raised on damaged data.
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.suppress(Exception),
        Image.open(io.BytesIO(data)) as image,
    ):
        if image.width * image.height <= _MOST_READ:
            upright = ImageOps.exif_transpose(image)
            readings.append(np.asarray(upright.convert(kept.get(upright.mode, "RGB"))))
    with contextlib.suppress(Exception), tifffile.TiffFile(io.BytesIO(data)) as file:
        if file.pages.first.size <= _MOST_READ:
            readings.append(file.pages.first.asarray())
    return tuple(readings)


def _not_images(rng: np.random.Generator) -> Iterator[Odd]:
    contents = {
        "empty.png": b"",
        "empty.tif": b"",
        "notes.jpg": b"This is no image.\n" * 20,
        "page.webp": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "print.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "document.tiff": b"%PDF-1.7\n1 0 obj\n",
        "archive.bmp": b"PK\x03\x04" + bytes(60),
        "zeros.png": bytes(4096),
        "random.jpg": rng.bytes(4096),
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "signature.tif": b"II*\0\x08\0\0\0",
        "signature.jpg": b"\xff\xd8\xff\xe0",
    }
    for name, content in contents.items():
        yield Odd("no image", name, content)


def _wrong_suffixes(samples: dict[str, Sample]) -> Iterator[Odd]:
    for (name, sample), suffix in zip(
        samples.items(), itertools.cycle([".tiff", ".JPG", ".bmp", ".webp"]), strict=False
    ):
        wrong = suffix if suffix.lower() != sample.suffix else ".png"
        yield Odd("wrong extension", f"{name}_as{wrong}", sample.data, (sample.pixels,))


def _colors(rng: np.random.Generator) -> Iterator[Odd]:
    def odd(name: str, content: bytes, pixels: np.ndarray) -> Odd:
        return Odd("colour model", name, content, (pixels,))

    indices, palette, alphas = _noise(rng) % 8, rng.integers(0, 256, (8, 3), dtype=np.uint8), rng.bytes(8)
    seen = np.concatenate([palette, np.frombuffer(alphas, np.uint8)[:, None]], axis=1)[indices]
    entries = chunk(b"PLTE", palette.tobytes())
    yield odd("palette.png", png(indices, before=entries), palette[indices])
    yield odd("palette_alpha.png", png(indices, before=entries + chunk(b"tRNS", alphas)), seen)
    for name, image in {"": _noise(rng), "16": _noise(rng, dtype=np.uint16) % 4}.items():
        hidden = np.where(image == image[0, 0], 0, np.iinfo(image.dtype).max).astype(image.dtype)
        key = chunk(b"tRNS", struct.pack(">H", image[0, 0]))
        yield odd(f"grey_key{name}.png", png(image, before=key), np.stack([image, hidden], axis=-1))
    for name, image in {"": _noise(rng, 3), "16": _noise(rng, 3, dtype=np.uint16)}.items():
        hidden = np.where((image == image[0, 0]).all(axis=-1, keepdims=True), 0, np.iinfo(image.dtype).max)
        key = chunk(b"tRNS", struct.pack(">HHH", *image[0, 0]))
        keyed = np.concatenate([image, hidden.astype(image.dtype)], axis=-1)
        yield odd(f"rgb_key{name}.png", png(image, before=key), keyed)
    for dtype, channels in itertools.product((np.uint8, np.uint16), ((), (2,), (3,), (4,))):
        image = _noise(rng, *channels, dtype=dtype)
        name = f"{image.dtype}_{image.ndim and image.shape[2:]}".replace(" ", "")
        yield odd(f"interlaced_{name}.png", png(image, interlaced=True), image)
        yield odd(f"plain_{name}.png", png(image), image)
        if dtype == np.uint16:
            yield odd(f"plain_{name}.tif", _tiff(image), image)
    bits = _noise(rng) > 127
    for kind, suffix in (("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")):
        yield odd(f"one_bit{suffix}", _saved(Image.fromarray(bits), kind), bits.astype(np.uint8) * 255)
    gif = Image.fromarray(indices, "P")
    gif.putpalette(palette.tobytes())
    keyed = np.concatenate([palette[indices], np.where(indices == 3, 0, 255)[..., None].astype(np.uint8)], axis=-1)
    yield odd("gif.png", _saved(gif, "GIF"), palette[indices])
    yield odd("gif_alpha.png", _saved(gif, "GIF", transparency=3), keyed)
    # Stored inverted, and said to be so by Adobe's segment, which is cut out of the second.
    cmyk = _saved(Image.fromarray(_noise(rng, 4), "CMYK"), "JPEG")
    stored = imagecodecs.jpeg8_decode(cmyk, outcolorspace="CMYK").astype(np.int64)
    product = stored[..., :3] * stored[..., 3:] + 128
    rgb = ((product >> 8) + product >> 8).astype(np.uint8)
    start = cmyk.index(b"\xff\xee")
    (length,) = struct.unpack(">H", cmyk[start + 2 : start + 4])
    yield odd("cmyk_adobe.jpg", cmyk, rgb)
    yield odd("cmyk.jpg", cmyk[:start] + cmyk[start + 2 + length :], rgb)


def _sizes(rng: np.random.Generator) -> Iterator[Odd]:
    for height, width in ((1, 1), (1, 5000), (5000, 1)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        yield Odd("size", f"{width}x{height}.png", png(image), (image,))
        yield Odd("size", f"{width}x{height}.webp", _webp(image), (image,))


def _several_images(rng: np.random.Generator) -> Iterator[Odd]:
    frames = [Image.fromarray(_noise(rng, 3)) for _ in range(3)]
    for kind, suffix in (("PNG", ".png"), ("WEBP", ".webp"), ("GIF", "_gif.png"), ("TIFF", ".tif")):
        yield Odd(
            "several images", f"several{suffix}", _saved(frames[0], kind, save_all=True, append_images=frames[1:])
        )
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.stack([_noise(rng, dtype=np.uint16)] * 3), photometric="minisblack")
    yield Odd("several images", "several16.tif", stream.getvalue())
    # A page that is followed by itself.
    image = _noise(rng, dtype=np.uint16)
    for name, pixels in {"loop16.tif": image, "loop.tif": (image >> 8).astype(np.uint8)}.items():
        data = bytearray(_tiff(pixels))
        (first,) = struct.unpack("<I", data[4:8])
        (entries,) = struct.unpack("<H", data[first : first + 2])
        data[first + 2 + 12 * entries :][:4] = b""
        data[first + 2 + 12 * entries : first + 6 + 12 * entries] = struct.pack("<I", first)
        yield Odd("several images", name, bytes(data), (pixels,), may_refuse=True)


def _claims(samples: dict[str, Sample]) -> Iterator[Odd]:
    """Headers of images that are far larger than what follows."""

    def patched(sample: Sample, *places: tuple[int, bytes]) -> bytes:
        data = bytearray(sample.data)
        for place, value in places:
            data[place : place + len(value)] = value
        return bytes(data)

    jpeg, webp, bmp = samples["jpeg"], samples["webp"], samples["bmp"]
    frame = jpeg.data.index(b"\xff\xc0") + 5
    for side in (HUGE, LARGE):
        contents = {
            "rgb.png": png(samples["png"].pixels, claims=side),
            "rgb16.png": png(samples["png16"].pixels, claims=side),
            "frame.jpg": patched(jpeg, (frame, struct.pack(">HH", *[min(side, 65500)] * 2))),
            "rgb.bmp": patched(bmp, (18, struct.pack("<ii", side, side))),
            "flat.tif": _tiff_claim(samples["tiff"].data, side),
            "deflated.tif": _tiff_claim(samples["deflated_tiff"].data, side),
            "rgba16.tif": _tiff_claim(samples["tiff16"].data, side),
            "grey16.tif": _tiff_claim(samples["lzw_tiff16"].data, side),
        }
        for name, content in contents.items():
            yield Odd("claims a large size", f"{side}_{name}", content)
    # Its largest; lossless data say their size once more, in 14 bits, after a signature.
    stream = webp.data.index(b"VP8L") + 9
    (bits,) = struct.unpack("<I", webp.data[stream : stream + 4])
    yield Odd("claims a large size", "largest.webp", patched(webp, (stream, struct.pack("<I", bits | 2**28 - 1))))


def _tiff_claim(data: bytes, side: int) -> bytes:
    content = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            entry = file.pages.first.tags[tag]
            content[entry.offset + 2 : entry.offset + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(content)


def _bombs(rng: np.random.Generator) -> Iterator[Odd]:
    """A few megabytes that unpack to gigabytes."""
    zeros = _zeros_deflated()
    for name, image in {"": _noise(rng, 3), "16": _noise(rng, 3, dtype=np.uint16)}.items():
        black = np.zeros_like(image)
        contents = {
            f"ztxt{name}.png": (png(image, before=chunk(b"zTXt", b"Comment\0\0" + zeros)), image),
            f"itxt{name}.png": (png(image, before=chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros)), image),
            f"iccp{name}.png": (png(image, before=chunk(b"iCCP", b"profile\0\0" + zeros)), image),
            f"idat{name}.png": (png(image, data=zeros), black),
            f"texts{name}.png": (png(image, before=chunk(b"tEXt", b"Comment\0" + bytes(8000)) * 1000), image),
            f"deflate{name}.tif": (_with_strip(_tiff(image, compression="deflate", rowsperstrip=HEIGHT), zeros), black),
        }
        for path, (content, pixels) in contents.items():
            yield Odd("bomb", path, content, (pixels,), may_refuse=True)


def _with_strip(data: bytes, strip: bytes) -> bytes:
    content = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for tag, value in (("StripOffsets", len(data)), ("StripByteCounts", len(strip))):
            entry = file.pages.first.tags[tag]
            content[entry.offset + 2 : entry.offset + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(content) + strip


def _orientations(samples: dict[str, Sample]) -> Iterator[Odd]:
    jpeg, png16, rgb = (samples[name].pixels for name in ("jpeg", "png16", "png"))
    for orientation in (*range(10), 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        tag = [(0x0112, "H", 1, orientation, True)]
        block = exif.tobytes()
        contents = {
            "jpg": (samples["jpeg"].data[:2] + _segment(0xE1, block) + samples["jpeg"].data[2:], jpeg),
            "16.png": (png(png16, before=chunk(b"eXIf", block.removeprefix(b"Exif\0\0"))), png16),
            "16.tif": (_tiff(png16, extratags=tag), png16),
            "tif": (_tiff(rgb, extratags=tag), rgb),
            "webp": (_webp(rgb, exif=block), rgb),
        }
        for name, (content, pixels) in contents.items():
            upright = np.ascontiguousarray(_TURNED.get(orientation, lambda image: image)(pixels))
            yield Odd(
                "orientation",
                f"orientation_{orientation}_{name.replace('.', '_')}.{name[-4:].strip('.')}",
                content,
                (upright,),
            )
    for name, block in {"text": b"Exif\0\0upside down", "cut": Image.Exif().tobytes()[:9], "none": b"Exif\0\0"}.items():
        broken = samples["jpeg"].data[:2] + _segment(0xE1, block) + samples["jpeg"].data[2:]
        yield Odd("orientation", f"exif_{name}.jpg", broken, (jpeg,))
        yield Odd("orientation", f"exif_{name}.png", png(png16, before=chunk(b"eXIf", block[6:])), (png16,))


def _segment(kind: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data


def _profiles(samples: dict[str, Sample]) -> Iterator[Odd]:
    rgb, png16 = samples["png"].pixels, samples["png16"].pixels
    sound = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in {"garbage": b"no profile at all" * 20, "cut": sound[:200], "empty": b""}.items():
        compressed = chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))
        jpeg = samples["jpeg"].data
        segment = _segment(0xE2, b"ICC_PROFILE\0\1\1" + profile)
        contents = {
            "rgb.png": (png(rgb, before=compressed), rgb),
            "rgb16.png": (png(png16, before=compressed), png16),
            "rgb.jpg": (jpeg[:2] + segment + jpeg[2:], samples["jpeg"].pixels),
            "rgb.tif": (_tiff(rgb, iccprofile=profile), rgb),
            "rgb16.tif": (_tiff(png16, iccprofile=profile), png16),
            "rgb.webp": (_webp(rgb, icc_profile=profile), rgb),
        }
        for path, (content, pixels) in contents.items():
            yield Odd("colour profile", f"{name}_{path}", content, (pixels,))
    yield Odd("colour profile", "not_compressed.png", png(rgb, before=chunk(b"iCCP", b"profile\0\0raw")), (rgb,))


def _tiff_kinds(rng: np.random.Generator) -> Iterator[Odd]:
    def odd(name: str, content: bytes, *readings: np.ndarray, may_refuse: bool = False) -> Odd:
        return Odd("kind of TIFF", f"{name}.tif", content, readings, may_refuse)

    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        rgb, grey = _noise(rng, 3, dtype=dtype), _noise(rng, dtype=dtype)
        yield odd(f"tiled{bits}", _tiff(rgb, tile=(16, 16)), rgb)
        yield odd(f"tiled_lzw{bits}", _tiff(grey, tile=(16, 16), compression="lzw"), grey)
        yield odd(f"strips{bits}", _tiff(rgb, rowsperstrip=3, compression="packbits"), rgb)
        yield odd(f"big_endian{bits}", _tiff(rgb, byteorder=">"), rgb)
        yield odd(f"predictor{bits}", _tiff(rgb, compression="deflate", predictor=True), rgb)
        yield odd(f"big{bits}", _tiff(rgb, bigtiff=True), rgb, may_refuse=True)
        planes = _tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate")
        yield odd(f"planar{bits}", planes, rgb, may_refuse=True)
        inverted = np.iinfo(dtype).max - grey
        yield odd(f"white_is_zero{bits}", _tiff(grey, photometric="miniswhite"), inverted, may_refuse=True)
        five = _noise(rng, 5, dtype=dtype)
        content = _tiff(five, photometric="rgb", extrasamples=["unspecified"] * 2)
        yield odd(f"five_channels{bits}", content, five[..., :3], may_refuse=True)
    rgb = _noise(rng, 3)
    compressed = _tiff(rgb, compression="jpeg", photometric="rgb")
    with tifffile.TiffFile(io.BytesIO(compressed)) as file:
        yield odd("jpeg", compressed, file.asarray())
    yield odd("float32", _tiff(rng.random((HEIGHT, WIDTH), np.float32)))
    yield odd("float32_rgb", _tiff(rng.random((HEIGHT, WIDTH, 3), np.float32)))
    yield odd("uint32", _tiff(_noise(rng, dtype=np.uint32)))
    yield odd("int16", _tiff(_noise(rng, dtype=np.int16)))
    yield odd("complex64", _tiff(rng.random((HEIGHT, WIDTH)).astype(np.complex64)))


def _names(samples: dict[str, Sample]) -> Iterator[Odd]:
    names = [
        *("with space.png", " leading.png", "two\nlines.png", "tab\there.png", "größe 图像 🖼.png", "--quiet.png"),
        *(
            "[a-z]*?.png",
            "100%s{}.png",
            "a.b.c.png",
            "UPPER.PNG",
            os.fsdecode(b"latin1_\xe9.png"),
            "bell\a\x1b[31m.png",
        ),
        *("x" * 240 + ".png", "ü" * 115 + ".png", "$(id).png", "back\\slash.png"),
    ]
    sample = samples["png"]
    for name in names:
        yield Odd("name", name, sample.data, (sample.pixels,))
    # NAME_x2.png is longer than a name may be.
    yield Odd("name", "y" * 251 + ".png", sample.data)
    for name in ("refused\nin two lines.png", os.fsdecode(b"refused_\xff.png")):
        yield Odd("name", name, b"no image")


def _file_system(samples: dict[str, Sample]) -> Iterator[Odd]:
    sample = samples["png"]

    def unreadable(path: Path) -> None:
        path.write_bytes(sample.data)
        path.chmod(0)

    def linked(path: Path) -> None:
        target = path.parent.with_name("elsewhere")
        target.write_bytes(sample.data)
        path.symlink_to(target)

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):  # its paths may be short only
            listener.bind(path.name)

    yield Odd("file system", "no_permission.png", unreadable, (sample.pixels,), may_refuse=True)  # root may read it
    yield Odd("file system", "folder.png/inside.png", sample.data, (sample.pixels,))
    yield Odd("file system", "dangling.png", lambda path: path.symlink_to("missing.png"))
    yield Odd("file system", "circle.png", lambda path: path.symlink_to("circle.png"))
    yield Odd("file system", "link.png", linked, (sample.pixels,))
    yield Odd("file system", "pipe.png", os.mkfifo)
    yield Odd("file system", "pipe.tif", os.mkfifo)
    yield Odd("file system", "socket.png", listening)
    yield Odd("file system", "device.png", lambda path: path.symlink_to("/dev/zero"))
