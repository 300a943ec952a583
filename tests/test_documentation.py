"""If these fail, the documentation has dead links or cannot be built or run, or files beside the code are malformed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
# Where the code host has the files of the repository: a package index shows images by such addresses only.
RAW = REPOSITORY.replace("github.com", "raw.githubusercontent.com") + "/main/"
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    NOTEBOOK,
]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CXX = [
    path
    for folder in (
        "seemore_jax/network/implementations/native",
        "seemore_jax/network/implementations/simt",
        "tests/native",
    )
    for path in sorted((ROOT / folder).iterdir())
    if path.suffix in (".cc", ".h")
]


def tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program of this environment in the root of the repository."""
    program = Path(sys.executable).with_name(str(arguments[0]))
    return subprocess.run([program, *arguments[1:]], cwd=ROOT, capture_output=True, text=True, check=False)


def links(page: Path) -> list[str]:
    """The targets of all links and images of a page in Markdown."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_the_readme_fits_on_few_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_images_of_the_readme_can_be_seen_elsewhere() -> None:
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert images
    for image in images:
        assert image.startswith(RAW)
        assert (ROOT / image.removeprefix(RAW)).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_something(page: Path) -> None:
    relative = [link for link in links(page) if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in relative if not (page.parent / link.partition("#")[0]).exists()] == []


def test_there_are_links() -> None:
    assert sum(len(links(page)) for page in PAGES) > 50


@pytest.mark.parametrize(
    "page", ["README.md", "docs/index.md", "docs/performance.md", "docs/scaling.md", "docs/pods.md"]
)
def test_what_was_never_run_is_said(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    said = "never run|not run|No TPU has run|Nothing of this project has been run on a TPU"
    assert re.search(said, text, re.IGNORECASE)


def test_the_changelog_has_this_version() -> None:
    import seemore_jax

    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert f"## [{seemore_jax.__version__}]" in text


def test_the_reference_has_each_public_name() -> None:
    import seemore_jax

    text = (ROOT / "docs" / "api" / "seemore_jax.md").read_text()
    for name in set(seemore_jax.__all__) - {"__version__"}:
        assert re.search(rf":: {name}$|`sj\.{name}`", text, re.MULTILINE), name


def test_the_reference_has_each_module() -> None:
    """Those that only commands use are left out."""
    reference = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    left_out = re.compile(r"__\w+__|version|configs\..*|web\..*|command_line\..*|evaluation\.demo")
    modules = [
        ".".join(path.relative_to(ROOT / "seemore_jax").with_suffix("").parts)
        for path in sorted((ROOT / "seemore_jax").rglob("*.py"))
        if path.name != "__init__.py"
    ]
    expected = [name for name in modules if not left_out.fullmatch(name)]
    assert [name for name in expected if f"automodule:: seemore_jax.{name}\n" not in reference] == []


@pytest.mark.thorough
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    options = ("--quiet", "--nitpicky", "--fail-on-warning", "--keep-going", "-d", tmp_path / "doctrees")
    done = tool("python", "-m", "sphinx", *options, "docs", tmp_path / "html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "api" / "seemore_jax.html").is_file()


@pytest.mark.thorough
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    # In a folder of its own, which gets what the notebook writes.
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    first = nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r})")
    notebook.cells.insert(0, first)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert (tmp_path / "build" / "notebook" / "tuned.onnx").stat().st_size > 0


def test_workflows_are_valid() -> None:
    """By their schema; actionlint, which cannot be installed without a network, runs in one of them."""
    assert len(WORKFLOWS) == 4
    done = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_is_in_order() -> None:
    """Otherwise, an image is larger than it must be, or differs from day to day."""
    done = tool("hadolint", "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_kernels_are_formatted() -> None:
    assert len(CXX) > 15
    done = tool("clang-format", "--dry-run", "--Werror", *CXX)
    assert done.returncode == 0, done.stderr


def test_hooks_run_what_is_installed() -> None:
    entries = re.findall(r"entry: \.venv/bin/([\w-]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert {"ruff", "clang-format"} == set(entries)
    for entry in entries:
        assert tool(entry, "--version").returncode == 0
