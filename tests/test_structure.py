"""If these fail, the package's modules depend on each other in a circle, or grow beyond what can be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60  # lines


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((ROOT / "seemore_jax").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(name: str) -> Iterator[tuple[str, str]]:
    """The modules of the package that a module imports anywhere, also inside functions, with the imported name."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("seemore_jax"):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield (module, "") if module in MODULES else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in MODULES)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Paths along the edges that lead back to where they began, one for each node that is on any."""

    def way_back(start: str) -> list[str] | None:
        waiting, seen = [[start]], set()
        while waiting:
            path = waiting.pop()
            for target in edges.get(path[-1], ()):
                if target == start:
                    return path
                if target not in seen:
                    seen.add(target)
                    waiting.append([*path, target])
        return None

    return [path for node in edges if (path := way_back(node))]


def test_modules_import_each_other_in_no_circle() -> None:
    edges = {name: {module for module, _ in imports(name)} for name in MODULES}
    assert sum(map(len, edges.values())) > 200
    assert circles(edges) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"], ["c", "b"]]


def test_the_network_knows_neither_padding_nor_backends() -> None:
    allowed = {"config", "layers", "routing"}
    found = {module for module, _ in imports("seemore_jax.network.seemore")}
    assert found == {f"seemore_jax.network.{name}" for name in allowed}
    layers = MODULES["seemore_jax.network.seemore"].read_text().partition("class ResidualGroup")[2]
    for word in ("region", "extent", "backend", "tpu", "cpu", "kernel implementation"):
        assert word not in layers.lower()


@pytest.mark.parametrize("name", MODULES)
def test_private_names_stay_in_their_module(name: str) -> None:
    private = [f"{module}.{imported}" for module, imported in imports(name) if imported.startswith("_")]
    assert [found for found in private if not found.endswith("__version__")] == []


@pytest.mark.parametrize("folder", ["seemore_jax", "benchmarks"])
def test_modules_and_functions_can_be_read_at_once(folder: str) -> None:
    long = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text()
        if len(text.splitlines()) > LONGEST_MODULE:
            long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
                long.append(f"{path}: {node.name}")
    assert long == []


def test_the_top_level_has_the_entry_points_only() -> None:
    """Everything else is in a package whose name says what is in it."""
    found = {path.name for path in (ROOT / "seemore_jax").glob("*.py")}
    assert found == {"__init__.py", "__main__.py", "version.py"}
