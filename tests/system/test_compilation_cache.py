"""If these fail, every start compiles anew, or a cache that cannot be used stops a command."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import jax, jax.numpy as jnp
from seemore_jax.system.compilation_cache import use_compilation_cache
use_compilation_cache()
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((7, 7)))
print(*[name for name in ("cache_hits", "cache_misses") if name in events], end="")
"""


def run(cache: Path | str, **more: str) -> str:
    """Hits and misses of a process whose cache folder is below `cache`; nothing may be on standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **more}
    done = subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_second_start_finds_what_the_first_compiled(tmp_path: Path) -> None:
    assert run(tmp_path) == "cache_misses"
    folder = tmp_path / "seemore-jax" / "programs"
    entries = sorted(folder.glob("*-cache"))
    assert entries
    assert run(tmp_path) == "cache_hits"
    for entry in entries:
        entry.write_bytes(b"damaged")
    run(tmp_path)


def test_the_variables_of_jax_go_first(tmp_path: Path) -> None:
    assert run(tmp_path / "unused", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine")) == "cache_misses"
    assert list((tmp_path / "mine").glob("*-cache"))
    assert run(tmp_path / "unused", JAX_ENABLE_COMPILATION_CACHE="false") == ""
    assert not (tmp_path / "unused").exists()


def test_without_a_folder_it_works_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file") == ""


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    run(tmp_path)
    folder = tmp_path / "seemore-jax" / "programs"
    before = {path.name: path.stat().st_size for path in folder.glob("*-cache")}
    most = str(max(before.values()) + 100)  # bytes: room for one program
    assert run(tmp_path, XLA_FLAGS="--xla_cpu_enable_fast_math=true", JAX_COMPILATION_CACHE_MAX_SIZE=most)
    after = {path.name: path.stat().st_size for path in folder.glob("*-cache")}
    assert after.keys() - before.keys(), "the new program is kept"
    assert sum(after.values()) <= int(most)
