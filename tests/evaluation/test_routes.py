"""If these fail, the figure of the routers' choices shows other choices."""

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from seemore_jax.evaluation.routes import Routes, routes_figure


def test_each_image_shows_its_probabilities_and_frames_what_was_chosen() -> None:
    rng = np.random.default_rng(0)
    routes = []
    for name in "abc":
        probabilities = rng.dirichlet(np.ones(3), size=5).astype(np.float32)
        routes.append(Routes(name, np.zeros((4, 6, 3), np.uint8), probabilities.argsort(1)[:, :-3:-1], probabilities))
    figure = routes_figure(routes, [2, 4, 8])
    tables = [axis for axis in figure.axes if axis.patches]
    assert len(tables) == 3
    for table, route in zip(tables, routes, strict=True):
        assert [t.get_text() for t in table.texts] == [f"{value:.2f}" for value in route.probabilities.ravel()]
        framed = {
            (round(patch.get_x() + 0.47), round(patch.get_y() + 0.47))
            for patch in table.patches
            if isinstance(patch, Rectangle)
        }
        assert framed == {(layer, expert) for layer in range(5) for expert in route.experts[layer]}
        assert {to_hex(patch.get_edgecolor()) for patch in table.patches} == {to_hex("tab:red")}
