"""If these fail, a device that is asked for and missing is replaced by another without a word."""

import jax
import pytest

import seemore_jax as sj
from seemore_jax.system.devices import use_device


def test_the_device_that_computes_already_is_accepted() -> None:
    use_device(jax.default_backend())


def test_another_is_refused_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jax.config.values["jax_platforms"]
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(sj.InputError, match="already"):
        use_device("tpu")

    def missing() -> str:
        raise RuntimeError("Unable to initialize backend 'tpu'")

    monkeypatch.setattr(jax, "default_backend", missing)
    with pytest.raises(sj.InputError, match="no tpu"):
        use_device("tpu")
    assert jax.config.values["jax_platforms"] == before
