"""If these fail, an image loses its colour profile, its EXIF or its resolution, or is rotated twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import GPS, IFD, Base

from seemore_jax.data.image_writing import check_image_target, write_image
from seemore_jax.data.images import ImageError, read_picture

RNG = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
EXIF: dict[int, Any] = {
    Base.Make: "Maker",
    Base.DateTime: "2024:02:06 12:00:00",
    Base.Orientation: 6,
    IFD.Exif: {Base.ExposureTime: 0.5, Base.ExifImageWidth: 5, Base.ExifImageHeight: 4, Base.MakerNote: b"own words"},
    IFD.GPSInfo: {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (1.0, 2.0, 3.0)},
}


def save_original(path: Path, pixels: np.ndarray, profile: bytes) -> None:
    exif = Image.Exif()
    for tag, value in EXIF.items():
        exif[tag] = value
    Image.fromarray(pixels).save(path, exif=exif.tobytes(), icc_profile=profile, dpi=(300, 200))


@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".webp"])
def test_every_format_keeps_all_of_it(tmp_path: Path, suffix: str, channels: tuple[int, ...]) -> None:
    profile = SRGB if channels in ((3,), (4,)) else GREY
    save_original(tmp_path / "original.png", RNG.integers(0, 256, (4, 5, *channels), dtype=np.uint8), profile)
    original = read_picture(tmp_path / "original.png")
    for dtype in (np.uint8, np.uint16):
        pixels = np.tile(original.pixels.astype(dtype), (2, 2, *(1 for _ in channels)))
        try:
            check_image_target(tmp_path / f"x{suffix}", pixels)
        except ImageError:
            continue
        write_image(tmp_path / f"x{suffix}", pixels, original.metadata)
        written = read_picture(tmp_path / f"x{suffix}")
        # The image is upright already and must not be rotated again.
        assert written.pixels.shape[:2] == (10, 8)
        if dtype == np.uint16 and channels == (2,) and suffix == ".tiff":
            continue  # Pillow, which reads the metadata, does not know this kind
        assert written.metadata.dpi == pytest.approx((300, 200), abs=0.01)
        # WebP has no grey images, so a grey profile would not fit.
        assert written.metadata.icc_profile == (None if suffix == ".webp" and profile == GREY else profile)
        assert written.metadata.exif == original.metadata.exif
        assert written.metadata.exif[IFD.GPSInfo] == EXIF[IFD.GPSInfo]
        assert written.metadata.exif[IFD.Exif][Base.MakerNote] == b"own words"


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_has_the_new_sides_and_no_orientation(tmp_path: Path, suffix: str, dtype: type) -> None:
    save_original(tmp_path / "original.png", RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), SRGB)
    original = read_picture(tmp_path / "original.png")
    write_image(tmp_path / f"x{suffix}", np.zeros((20, 16, 3), dtype), original.metadata)
    with Image.open(tmp_path / f"x{suffix}") as image:
        exif = image.getexif()
        assert exif.get(Base.Orientation, 1) == 1
        assert exif.get_ifd(IFD.Exif)[Base.ExifImageWidth] == 16
        assert exif.get_ifd(IFD.Exif)[Base.ExifImageHeight] == 20
        assert image.size == (16, 20)


def test_damaged_metadata_does_not_cost_the_picture(tmp_path: Path) -> None:
    image = Image.new("RGB", (5, 4))
    image.save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(256)), icc_profile=b"damaged")
    picture = read_picture(tmp_path / "x.jpg")
    write_image(tmp_path / "y.png", picture.pixels, picture.metadata)
    assert read_picture(tmp_path / "y.png").metadata.icc_profile is None


def test_a_profile_of_other_colours_is_not_kept(tmp_path: Path) -> None:
    """CMYK becomes RGB, whose colours a CMYK profile would change."""
    profile = SRGB[:16] + b"CMYK" + SRGB[20:]
    Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(tmp_path / "x.jpg", icc_profile=profile)
    picture = read_picture(tmp_path / "x.jpg")
    assert picture.pixels.shape == (4, 5, 3)
    assert picture.pixels[0, 0].argmax() == 0
    write_image(tmp_path / "y.png", picture.pixels, picture.metadata)
    assert read_picture(tmp_path / "y.png").metadata.icc_profile is None
