"""Makes files with all orientations, broken EXIF data, and colour profiles that cannot be read."""

import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageCms

from tests.support.odd_images.encoders import chunk, jpeg_segment, png, tiff, webp, with_bytes
from tests.support.odd_images.files import Odd, Sample

_ORIENTATION_TAG = 0x0112
_EXIF_SEGMENT, _PROFILE_SEGMENT = 0xE1, 0xE2
_PROFILE_DATE = 24  # byte of a colour profile where its date begins
# How an image is turned upright, by its orientation; other values leave it as it is.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, 1),
}


def orientations(samples: dict[str, Sample]) -> Iterator[Odd]:
    """Makes files of each format with each orientation, invalid ones included, and files with broken EXIF data."""
    for orientation in (*range(10), 65535):
        yield from _oriented(samples, orientation)
    jpeg, png16 = samples["jpeg"], samples["png16"].pixels
    for name, block in {"text": b"Exif\0\0upside down", "cut": Image.Exif().tobytes()[:9], "none": b"Exif\0\0"}.items():
        yield Odd("orientation", f"exif_{name}.jpg", _with_segment(jpeg.data, _EXIF_SEGMENT, block), (jpeg.pixels,))
        yield Odd("orientation", f"exif_{name}.png", png(png16, before=chunk(b"eXIf", block[6:])), (png16,))


def _oriented(samples: dict[str, Sample], orientation: int) -> Iterator[Odd]:
    jpeg, png16, rgb = (samples[name].pixels for name in ("jpeg", "png16", "png"))
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = orientation
    block = exif.tobytes()
    tag = [(_ORIENTATION_TAG, "H", 1, orientation, True)]
    contents = {
        "jpg": (_with_segment(samples["jpeg"].data, _EXIF_SEGMENT, block), jpeg),
        "16.png": (png(png16, before=chunk(b"eXIf", block.removeprefix(b"Exif\0\0"))), png16),
        "16.tif": (tiff(png16, extratags=tag), png16),
        "tif": (tiff(rgb, extratags=tag), rgb),
        "webp": (webp(rgb, exif=block), rgb),
    }
    for name, (content, pixels) in contents.items():
        upright = np.ascontiguousarray(_UPRIGHT.get(orientation, lambda image: image)(pixels))
        path = f"orientation_{orientation}_{name.replace('.', '_')}.{name[-4:].strip('.')}"
        yield Odd("orientation", path, content, (upright,))


def profiles(samples: dict[str, Sample]) -> Iterator[Odd]:
    """Makes files with colour profiles that are cut off, empty, or not profiles at all."""
    rgb, png16, jpeg = samples["png"].pixels, samples["png16"].pixels, samples["jpeg"]
    dated = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    sound = with_bytes(dated, _PROFILE_DATE, bytes(12))  # A date would make every call's files different.
    for name, profile in {"garbage": b"no profile at all" * 20, "cut": sound[:200], "empty": b""}.items():
        compressed = chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))
        with_profile = _with_segment(jpeg.data, _PROFILE_SEGMENT, b"ICC_PROFILE\0\1\1" + profile)
        contents = {
            "rgb.png": (png(rgb, before=compressed), rgb),
            "rgb16.png": (png(png16, before=compressed), png16),
            "rgb.jpg": (with_profile, jpeg.pixels),
            "rgb.tif": (tiff(rgb, iccprofile=profile), rgb),
            "rgb16.tif": (tiff(png16, iccprofile=profile), png16),
            "rgb.webp": (webp(rgb, icc_profile=profile), rgb),
        }
        for path, (content, pixels) in contents.items():
            yield Odd("colour profile", f"{name}_{path}", content, (pixels,))
    yield Odd("colour profile", "not_compressed.png", png(rgb, before=chunk(b"iCCP", b"profile\0\0raw")), (rgb,))


def _with_segment(jpeg: bytes, kind: int, data: bytes) -> bytes:
    """Returns a JPEG file with a segment inserted after its signature."""
    return jpeg[:2] + jpeg_segment(kind, data) + jpeg[2:]
