"""Makes files that are no images, that state a false size, and that unpack to gigabytes."""

import struct
from collections.abc import Iterator

import numpy as np

from tests.support.odd_images.encoders import chunk, deflated_zeros, png, tiff, with_bytes, with_tiff_tags
from tests.support.odd_images.files import HEIGHT, Odd, Sample, noise

# Sides of images in false headers: far beyond the largest size that is accepted, and just within it.
_HUGE, _LARGE = 100_000, 13_000
_LARGEST_JPEG = 65_500


def not_images(rng: np.random.Generator) -> Iterator[Odd]:
    """Makes files of other formats, of random bytes, and of nothing but a signature."""
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


def false_sizes(samples: dict[str, Sample]) -> Iterator[Odd]:
    """Makes files whose headers state a far larger size than the data that follow."""
    jpeg, webp, bmp = (samples[name].data for name in ("jpeg", "webp", "bmp"))
    frame = jpeg.index(b"\xff\xc0") + 5
    for side in (_HUGE, _LARGE):
        contents = {
            "rgb.png": png(samples["png"].pixels, claimed_side=side),
            "rgb16.png": png(samples["png16"].pixels, claimed_side=side),
            "frame.jpg": with_bytes(jpeg, frame, struct.pack(">HH", *[min(side, _LARGEST_JPEG)] * 2)),
            "rgb.bmp": with_bytes(bmp, 18, struct.pack("<ii", side, side)),
            "flat.tif": _tiff_of_side(samples["tiff"], side),
            "deflated.tif": _tiff_of_side(samples["deflated_tiff"], side),
            "rgba16.tif": _tiff_of_side(samples["tiff16"], side),
            "grey16.tif": _tiff_of_side(samples["lzw_tiff16"], side),
        }
        for name, content in contents.items():
            yield Odd("claims a large size", f"{side}_{name}", content)
    # Lossless WebP data state the size in 14 bits for each side; all bits set are the largest size of the format.
    start = webp.index(b"VP8L") + 9
    (bits,) = struct.unpack("<I", webp[start : start + 4])
    yield Odd("claims a large size", "largest.webp", with_bytes(webp, start, struct.pack("<I", bits | 2**28 - 1)))


def _tiff_of_side(sample: Sample, side: int) -> bytes:
    return with_tiff_tags(sample.data, ImageWidth=side, ImageLength=side, RowsPerStrip=side)


def bombs(rng: np.random.Generator, megabytes: int) -> Iterator[Odd]:
    """Makes decompression bombs: small files whose compressed data unpack to that many megabytes."""
    zeros = deflated_zeros(megabytes)
    for name, image in {"": noise(rng, 3), "16": noise(rng, 3, dtype=np.uint16)}.items():
        black = np.zeros_like(image)
        contents = {
            f"ztxt{name}.png": (png(image, before=chunk(b"zTXt", b"Comment\0\0" + zeros)), image),
            f"itxt{name}.png": (png(image, before=chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros)), image),
            f"iccp{name}.png": (png(image, before=chunk(b"iCCP", b"profile\0\0" + zeros)), image),
            f"idat{name}.png": (png(image, data=zeros), black),
            f"texts{name}.png": (png(image, before=chunk(b"tEXt", b"Comment\0" + bytes(8000)) * 1000), image),
            f"deflate{name}.tif": (_tiff_with_strip(image, zeros), black),
        }
        for path, (content, pixels) in contents.items():
            yield Odd("bomb", path, content, (pixels,), may_refuse=True)


def _tiff_with_strip(image: np.ndarray, strip: bytes) -> bytes:
    """Encodes a TIFF file whose only strip is replaced by other compressed data."""
    data = tiff(image, compression="deflate", rowsperstrip=HEIGHT)
    return with_tiff_tags(data, StripOffsets=len(data), StripByteCounts=len(strip)) + strip
