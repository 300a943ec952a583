"""A folder of odd inputs, and how each of them has to end.

`INPUTS` is the table: the name of the input, how it is made, and its end when the folder is upscaled by 2.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.support.odd_images.encoders import chunk, png, saved, tiff, webp, with_bytes
from tests.support.odd_images.files import HEIGHT, WIDTH, Sample, noise
from tests.support.odd_images.places import file_system

_RNG = np.random.default_rng(0)
_RGB, _GREY, _RGBA = noise(_RNG, 3), noise(_RNG), noise(_RNG, 4)
_RGB16, _GREY16 = noise(_RNG, 3, dtype=np.uint16), noise(_RNG, dtype=np.uint16)
_FRAMES = [np.roll(_RGB, shift, axis=0) for shift in range(3)]
_ALPHA_FRAMES = [np.dstack([frame, np.where(_GREY > 127, 255, 0).astype(np.uint8)]) for frame in _FRAMES]
_ORIENTATION = 0x0112

Content = bytes | Callable[[Path], Any]


class End(NamedTuple):
    """How an input ends.

    Attributes:
      status: as in the report of the command.
      output: the suffix of the output.
      images: the number of images in the output.
      sideways: whether width and height are exchanged, by the orientation.
      error: a part of the error.
    """

    status: Literal["made", "failed", "not supported"]
    output: str = ".png"
    images: int = 1
    sideways: bool = False
    error: str = ""


Table = dict[str, tuple[Content, End]]

MADE = End("made")
DAMAGED = End("failed", error="not a readable image")
NOT_SUPPORTED = End("not supported")


def _failed(error: str) -> End:
    return End("failed", error=error)


def _several(kind: str, frames: list[np.ndarray], **options: Any) -> bytes:
    images = [Image.fromarray(frame) for frame in frames]
    return saved(images[0], kind, save_all=True, append_images=images[1:], duration=[80, 40, 120], loop=2, **options)


def _turned(kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return saved(_RGB, kind, exif=exif, **options)


def _heic(*images: np.ndarray, **options: Any) -> bytes:
    import pillow_heif

    file = pillow_heif.HeifFile()
    for image in images:
        file.add_frombytes("RGBA" if image.shape[2] == 4 else "RGB", (WIDTH, HEIGHT), image.tobytes())
    stream = io.BytesIO()
    file.save(stream, **options)
    return stream.getvalue()


def _heic_turned() -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return _heic(_RGB, exif=exif.tobytes())


def _pages(*images: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for index, image in enumerate(images):
            photometric = "rgb" if image.ndim == 3 else "minisblack"
            file.write(image, photometric=photometric, contiguous=False, **(options if index else {}))
    return stream.getvalue()


def _deep_animation() -> bytes:
    frames = [png(image) for image in (_RGB16, _RGB16)]
    control = chunk(b"acTL", bytes([0, 0, 0, 2, 0, 0, 0, 0]))
    place = WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big") + bytes(8) + b"\0\1\0\x0a\0\0"
    data = frames[0][frames[0].index(b"IDAT") + 4 : frames[0].index(b"IEND") - 8]
    parts = [chunk(b"fcTL", bytes(4) + place), chunk(b"IDAT", data)]
    parts += [chunk(b"fcTL", b"\0\0\0\1" + place), chunk(b"fdAT", b"\0\0\0\2" + data)]
    return frames[0][:33] + control + b"".join(parts) + chunk(b"IEND", b"")


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _place(name: str) -> Content:
    """Returns how an entry of the file system is made."""
    sample = Sample(".png", png(_RGB), _RGB)
    return next(odd.content for odd in file_system({"png": sample}) if odd.name == name)


def inputs() -> Table:
    """Returns the table: for the name of each input, its content or how it is made, and its end."""
    movie, drawing = b"\0\0\0\x18ftypmp42" + bytes(40), b'<svg xmlns="http://www.w3.org/2000/svg" width="9"/>'
    return {
        **_stills(),
        **_names(),
        **_several_images(),
        # Damaged, and what claims too much.
        "empty.png": (b"", _failed("is empty")),
        "empty.avif": (b"", _failed("is empty")),
        "truncated.png": (_half(png(_RGB)), DAMAGED),
        "truncated.jpg": (_half(saved(_RGB, "JPEG")), DAMAGED),
        "truncated.webp": (_half(webp(_RGB)), DAMAGED),
        "truncated.tif": (_half(tiff(_RGB)), DAMAGED),
        "truncated.avif": (_half(saved(_RGB, "AVIF")), DAMAGED),
        "truncated.heic": (_half(_heic(_RGB)), DAMAGED),
        "truncated_animation.gif": (_half(_several("GIF", _FRAMES)), DAMAGED),
        "truncated_animation.webp": (_half(_several("WEBP", _FRAMES)), DAMAGED),
        "text.jpg": (b"no image\n" * 20, DAMAGED),
        "huge.png": (png(_RGB, claimed_side=100_000), _failed("--max_pixels")),
        # What would lose something.
        "float.tif": (tiff(_RGB.astype(np.float32)), _failed("16 bits")),
        "deep_animation.png": (_deep_animation(), _failed("16 bits")),
        "two_pictures.heic": (_heic(_RGB, _FRAMES[1]), _failed("2 pictures in one HEIC file")),
        # Formats that are not supported, in files named like images.
        "movie.png": (movie, _failed("not supported: a video")),
        "drawing.png": (drawing, _failed("not supported: an SVG drawing")),
        "document.tiff": (b"%PDF-1.7\n", _failed("not supported: a PDF document")),
        "archive.bmp": (b"PK\3\4" + bytes(60), _failed("not supported: a ZIP archive")),
        "page.webp": (b"<!DOCTYPE html><html></html>", _failed("not supported: a web page")),
        "jxl.jpg": (b"\xff\x0a" + bytes(60), _failed("not supported: JPEG XL")),
        # … and under their own names.
        "movie.mp4": (movie, NOT_SUPPORTED),
        "drawing.svg": (drawing, NOT_SUPPORTED),
        "notes.txt": (b"notes", NOT_SUPPORTED),
        "raw.cr2": (b"II*\0\x10\0\0\0CR\2\0", NOT_SUPPORTED),
        "photo.jxl": (b"\xff\x0a", NOT_SUPPORTED),
        "layers.psd": (b"8BPS", NOT_SUPPORTED),
        "no_suffix": (png(_RGB), NOT_SUPPORTED),
        # No ordinary files.
        "dangling.png": (_place("dangling.png"), _failed("no such file")),
        "circle.png": (_place("circle.png"), _failed("symbolic links")),
        "pipe.png": (_place("pipe.png"), _failed("is a pipe")),
        "pipe.tif": (_place("pipe.tif"), _failed("is a pipe")),
        "pipe.mp4": (os.mkfifo, NOT_SUPPORTED),
        "socket.png": (_place("socket.png"), _failed("is a pipe")),
        "device.png": (_place("device.png"), _failed("is a pipe")),
        "link.png": (_place("link.png"), MADE),
        "folder.png/inside.png": (png(_RGB), MADE),
        # Root may read it.
        "no_permission.png": (_place("no_permission.png"), MADE if os.geteuid() == 0 else _failed("Permission denied")),
    }


def _stills() -> Table:
    palette = Image.fromarray(_RGB).quantize(8)
    sideways = End("made", sideways=True)
    return {
        "camera.jpg": (saved(_RGB, "JPEG", subsampling=0), MADE),
        "progressive.jpeg": (saved(_RGB, "JPEG", progressive=True), MADE),
        "saved.jfif": (saved(_RGB, "JPEG"), MADE),
        "grey.jpg": (saved(_GREY, "JPEG"), MADE),
        "cmyk.jpg": (saved(Image.fromarray(_RGBA, "CMYK"), "JPEG"), MADE),
        "turned.jpg": (_turned("JPEG"), sideways),
        "broken_exif.jpg": (saved(_RGB, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff"), MADE),
        "jpeg_as.png": (saved(_RGB, "JPEG"), MADE),
        "deep.png": (png(_RGB16), MADE),
        "deep_grey.png": (png(_GREY16), MADE),
        "palette.png": (saved(palette, "PNG"), MADE),
        "transparent_palette.png": (saved(palette, "PNG", transparency=0), MADE),
        "one_bit.png": (saved(Image.fromarray(_GREY > 127), "PNG"), MADE),
        "interlaced.png": (png(_RGB, interlaced=True), MADE),
        "alpha.png": (png(_RGBA), MADE),
        "grey_alpha.png": (png(_RGBA[..., 2:]), MADE),
        "still.gif": (saved(palette, "GIF"), MADE),
        "transparent.gif": (saved(palette, "GIF", transparency=3), MADE),
        "still.webp": (webp(_RGB), MADE),
        "alpha.webp": (webp(_RGBA), MADE),
        "photo.avif": (saved(_RGB, "AVIF"), MADE),
        "grey.avif": (saved(_GREY, "AVIF"), MADE),
        "alpha.avif": (saved(_RGBA, "AVIF"), MADE),
        "turned.avif": (_turned("AVIF"), sideways),
        "deep.avif": (bytes(imagecodecs.avif_encode(_RGB16 >> 6, bitspersample=10)), MADE),
        "photo.heic": (_heic(_RGB), MADE),
        "alpha.heif": (_heic(_RGBA), MADE),
        "turned.hif": (_heic_turned(), sideways),
        "heic_as.jpg": (_heic(_RGB), MADE),
        "bitmap.bmp": (saved(_RGB, "BMP"), MADE),
        "plain.ppm": (saved(_RGB, "PPM"), MADE),
        "plain.pgm": (saved(_GREY, "PPM"), MADE),
        "lzw.tif": (tiff(_RGB, compression="lzw"), MADE),
        "deep.tiff": (tiff(_RGB16), MADE),
        "tiled.tif": (tiff(_GREY, tile=(16, 16)), MADE),
        "preview.tif": (_pages(_RGB, _RGB[::2, ::2], subfiletype=1), MADE),
    }


def _names() -> Table:
    names = ("größe 图像 🖼.png", "two\nlines.png", " leading.png", "--quiet.png", "[a-z]*?.png", "UPPER.PNG", "a.b.png")
    too_long = "y" * 251 + ".png"
    return {**{name: (png(_RGB), MADE) for name in names}, too_long: (png(_RGB), _failed("too long"))}


def _several_images() -> Table:
    still = png(_RGB)
    return {
        "animation.gif": (_several("GIF", _FRAMES), End("made", ".gif", 3)),
        "transparent_animation.gif": (_several("GIF", _ALPHA_FRAMES, disposal=2), End("made", ".gif", 3)),
        "animation.webp": (_several("WEBP", _FRAMES), End("made", ".webp", 3)),
        "animation.png": (_several("PNG", _FRAMES), End("made", ".png", 3)),
        "animation_2.apng": (_several("PNG", _ALPHA_FRAMES), End("made", ".apng", 3)),
        "with_cover.png": (_several("PNG", _FRAMES, default_image=True), End("made", ".png", 2)),
        "animation.avif": (_several("AVIF", _FRAMES), End("made", ".avif", 3)),
        "gif_as.png": (_several("GIF", _FRAMES), End("made", ".gif", 3)),
        "pages.tif": (_pages(*_FRAMES), End("made", ".tif", 3)),
        "deep_pages.tiff": (_pages(_RGB16, _GREY16), End("made", ".tiff", 2)),
        "mixed_pages.tif": (_pages(_RGB, _GREY, _GREY16), End("made", ".tif", 3)),
        "damaged_page.tif": (with_bytes(_pages(*_FRAMES), len(_pages(*_FRAMES)) - 40, b"\xff" * 40)[:-60], DAMAGED),
        "one_frame.webp": (saved(_RGB, "WEBP", save_all=True), MADE),
        "still_with_suffix.apng": (still, MADE),
    }
