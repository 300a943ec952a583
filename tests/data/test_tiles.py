"""If these fail, parts of photographs are never trained on, or LR and HR of a tile show different regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seemore_jax.data.tiles import cut_tiles


def numbered(height: int, width: int) -> np.ndarray:
    """Returns an image in which all pixels are different."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows // 256 + 16 * (columns // 256)], axis=-1).astype(np.uint8)


def enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    tile=st.integers(2, 20),
    overlap=st.integers(0, 19),
    scale=st.integers(2, 4),
)
def test_every_crop_lies_within_a_tile(height: int, width: int, tile: int, overlap: int, scale: int) -> None:
    overlap = min(overlap, tile - 1)
    lr = numbered(height, width)
    tiles = list(cut_tiles(lr, enlarged(lr, scale), scale, tile, overlap))
    inside = np.zeros((height, width), bool)
    covered = np.zeros((height, width), bool)  # the top left corners of crops that lie within a tile
    side = min(overlap + 1, height, width)
    for lr_tile, hr_tile in tiles:
        np.testing.assert_array_equal(hr_tile, enlarged(lr_tile, scale))
        assert lr_tile.shape == (min(tile, height), min(tile, width), 3)
        top, left = int(lr_tile[0, 0, 0]), int(lr_tile[0, 0, 1])
        np.testing.assert_array_equal(lr_tile, lr[top : top + tile, left : left + tile])
        inside[top : top + tile, left : left + tile] = True
        covered[top : top + lr_tile.shape[0] - side + 1, left : left + lr_tile.shape[1] - side + 1] = True
    assert inside.all()
    assert covered[: height - side + 1, : width - side + 1].all()


@pytest.mark.parametrize(("side", "count"), [(1, 1), (127, 1), (128, 1), (129, 2), (192, 2), (193, 3), (510, 7)])
def test_no_more_tiles_than_needed(side: int, count: int) -> None:
    lr = numbered(5, side)
    tiles = list(cut_tiles(lr, enlarged(lr, 2), 2))
    assert len(tiles) == count
    np.testing.assert_array_equal(tiles[-1][0][:, -1], lr[:, -1])
