"""If these fail, files of a format are passed over, or what a file is is called wrongly."""

import pytest

from seemore_jax.data import formats
from seemore_jax.data.formats import (
    FORMATS,
    SUFFIXES,
    WRITTEN_SUFFIXES,
    ImageError,
    format_of,
    is_supported,
    unsupported_kind,
    written_format,
)


def test_each_suffix_names_one_format() -> None:
    suffixes = [suffix for each in FORMATS.values() for suffix in each.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert format_of("A.JPeG") is FORMATS["jpg"]
    assert format_of("x.mp4") is format_of("x") is None
    assert {".gif", ".avif", ".png", ".ppm"} < set(SUFFIXES)
    assert ".heic" not in SUFFIXES
    assert not {".ppm", ".heic"} & set(WRITTEN_SUFFIXES)
    assert written_format("x.tif") is FORMATS["tiff"]
    for name in ("x.ppm", "x.heic", "x.mp4", "x"):
        with pytest.raises(ImageError, match="use"):
            written_format(name)


def test_heic_is_supported_with_its_extra_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_supported("x.heic")
    monkeypatch.setattr(formats, "HEIC_MODULE", "no_such_module")
    assert not is_supported("x.heic")
    assert is_supported("x.avif")
    assert unsupported_kind("x.heic", b"") == "HEIC needs pillow-heif: pip install 'seemore-jax[heic]'"


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\0\0\0\x18ftypcrx ", "a camera's raw file"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw file"),
        (b'\xef\xbb\xbf\n<?XML version="', "XML"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\0\0\0\x18ftypavif", None),
        (b"\0\0\0\x18ftypheic", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"", None),
    ],
)
def test_a_file_is_called_what_its_beginning_says(beginning: bytes, kind: str | None) -> None:
    assert unsupported_kind("x.png", beginning) == kind


def test_otherwise_a_file_is_called_by_its_suffix() -> None:
    assert unsupported_kind("x.XYZ", b"what") == "a .xyz file"
    assert unsupported_kind("x", b"what") == "a file of no known format"
    assert unsupported_kind("x.jpg", b"what") is None
