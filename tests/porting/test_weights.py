"""If these fail, weights change between the frameworks, or bad files are not refused with a clear message."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import seemore.module
import torch

import seemore_jax as sj
from seemore_jax import SeemoRe, SeemoReConfig, WeightsError
from seemore_jax.network.config import SCALES, VARIANTS
from seemore_jax.porting import read_weights, weights
from seemore_jax.porting.names import from_torch, to_torch
from tests.support.release import ported, release_model, zeros

SMALL = SeemoReConfig.variant("T", 2, embedding_dim=12, num_layers=2)
FORMATS = ["x.pth", "x.pt", "x.safetensors", "folder"]


def state_dict(config: SeemoReConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = seemore.module.SeemoRe(**config.to_dict()).state_dict()
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


def assert_same(model: SeemoRe, state: dict[str, torch.Tensor]) -> None:
    tensors = to_torch(model)
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name], tensor.float().numpy())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip_from_pytorch_and_back_is_bit_identical(tmp_path: Path, name: str, scale: int) -> None:
    config = SeemoReConfig.variant(name, scale)
    state = state_dict(config)
    torch.save({"params": state}, tmp_path / "release.pth")
    model = sj.load(tmp_path / "release.pth")
    assert model.config == config
    sj.save(model, tmp_path / "x.safetensors")
    sj.save(sj.load(tmp_path / "x.safetensors"), tmp_path / "back.pth")

    back = torch.load(tmp_path / "back.pth", weights_only=True)["params"]
    seemore.module.SeemoRe(**config.to_dict()).load_state_dict(back, strict=True)
    from_safetensors = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert back.keys() == from_safetensors.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor)
        assert torch.equal(from_safetensors[key], tensor)


@pytest.mark.parametrize("target", FORMATS)
def test_every_format_keeps_what_shapes_cannot_tell(tmp_path: Path, target: str) -> None:
    config = dataclasses.replace(SMALL, use_shuffle=False, recursive=3, topk=2, img_range=255.0)
    state = state_dict(config)
    sj.save(from_torch(config, {k: v.numpy() for k, v in state.items()}, "test"), tmp_path / target)
    read = sj.load(tmp_path / target)
    assert read.config == config
    assert_same(read, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_half_precision_files_become_float32(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in state_dict(SeemoReConfig.variant("T", 3)).items()}
    path = tmp_path / f"x.{suffix}"
    torch.save(state, path) if suffix == "pth" else safetensors.torch.save_file(state, path)
    assert_same(sj.load(path), state)


def test_reads_every_way_of_wrapping_the_parameters(tmp_path: Path) -> None:
    config = SeemoReConfig.variant("T", 4)
    plain, average = state_dict(config), state_dict(config, seed=1)
    prefixed = {f"module.{name}": tensor for name, tensor in plain.items()}
    path = tmp_path / "x.pth"
    for content, entry, expected in [
        (plain, "the file itself", plain),
        (prefixed, "the file itself", plain),
        ({"params": plain}, "params", plain),
        ({"params": prefixed, "iter": 5}, "params", plain),
        ({"params": plain, "params_ema": average}, "params_ema", average),
        ({"params_ema": average}, "params_ema", average),
    ]:
        torch.save(content, path)
        read = read_weights(path)
        assert read.entry == entry
        assert_same(read.to_model(), expected)


def test_a_tensor_with_and_without_prefix_is_refused(tmp_path: Path) -> None:
    state = state_dict(SeemoReConfig.variant("T", 4))
    torch.save({**state, "module.norm.weight": state["norm.weight"]}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"holds norm\.weight twice"):
        sj.load(tmp_path / "x.pth")


def test_suffixes_may_be_written_large(tmp_path: Path) -> None:
    for name in ("X.PTH", "Y.SafeTensors"):
        sj.save(zeros(SMALL), tmp_path / name)
        assert sj.load(tmp_path / name).config == SMALL


def test_huge_claims_without_content_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    empty = changed(conv_1__weight=np.zeros((100_000, 3, 0, 3), np.float32))
    (tmp_path / "x.safetensors").write_bytes(safetensors.numpy.save(empty))
    with pytest.raises(WeightsError, match=r"no usable conv_1\.weight"):
        sj.load(tmp_path / "x.safetensors")
    wide = changed(conv_1__weight=np.zeros((100_000, 3, 3, 3), np.float32))  # a parameter C×C would take 40 GB
    (tmp_path / "x.safetensors").write_bytes(safetensors.numpy.save(wide))
    given = {field: getattr(SMALL, field) for field in ("use_shuffle", "recursive", "topk", "img_range")}
    with pytest.raises(WeightsError, match="has shape"):
        sj.load(tmp_path / "x.safetensors", **given)


def test_a_directory_saved_by_halves_is_refused(tmp_path: Path) -> None:
    sj.save(zeros(SMALL), tmp_path / "old")
    sj.save(zeros(dataclasses.replace(SMALL, topk=2)), tmp_path / "new")
    (tmp_path / "new" / "model.safetensors").replace(tmp_path / "old" / "model.safetensors")
    with pytest.raises(WeightsError, match="saved with another topk"):
        sj.load(tmp_path / "old")


def test_hugging_face_configs_may_say_more(tmp_path: Path) -> None:
    sj.save(zeros(SMALL), tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    (tmp_path / "folder" / "config.json").write_text(json.dumps({**config, "transformers_version": "5.0"}))
    assert sj.load(tmp_path / "folder").config == SMALL


def foreign(path: Path, config: SeemoReConfig) -> Path:
    """Writes a file of another program, which has no configuration."""
    torch.save(state_dict(config), path)
    return path


def test_what_no_file_tells_is_asked_for(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, use_shuffle=False, recursive=1, topk=3, img_range=255.0)
    path = foreign(tmp_path / "x.pth", config)
    given: dict[str, Any] = {}
    for field in ("use_shuffle", "recursive", "topk", "img_range"):
        with pytest.raises(WeightsError, match=rf"give .*{field}.* as argument"):
            sj.load(path, **given)
        given[field] = getattr(config, field)
    assert sj.load(path, **given).config == config


def test_origin_of_every_field_is_reported(tmp_path: Path) -> None:
    read = read_weights(foreign(tmp_path / "x.pth", SeemoReConfig.variant("B", 3)), topk=2)
    assert read.config == SeemoReConfig.variant("B", 3, topk=2)
    origin = read.hyperparameters.origin
    assert origin.keys() == read.config.to_dict().keys()
    assert origin["embedding_dim"] == "shapes"
    assert origin["recursive"] == "assumed: as in SeemoRe-B"
    assert origin["topk"] == "argument"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"scale": 3}, "shapes say scale=2, the argument says 3"),
        ({"topk": 9}, "topk must be at most"),
        ({"depth": 3}, "depth is not a field"),
        ({"compute_dtype": "int8"}, "compute_dtype must be"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path: Path, overrides: dict[str, Any], complaint: str) -> None:
    sj.save(zeros(SMALL), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=complaint):
        sj.load(tmp_path / "x.safetensors", **overrides)


def test_how_to_compute_is_the_callers_choice(tmp_path: Path) -> None:
    sj.save(zeros(dataclasses.replace(SMALL, compute_dtype="bfloat16")), tmp_path / "x.safetensors")
    assert sj.load(tmp_path / "x.safetensors").config == SMALL
    assert sj.load(tmp_path / "x.safetensors", precision="default").config.precision == "default"


def changed(**changes: Any) -> dict[str, np.ndarray]:
    tensors = to_torch(zeros(SMALL))
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    return tensors


BROKEN = {
    "missing body.1.global_block.norm_1.bias": changed(body__1__global_block__norm_1__bias=None),
    "unknown extra.weight": changed(extra__weight=np.zeros(3, np.float32)),
    r"norm.weight has shape \(13,\), expected \(12,\)": changed(norm__weight=np.zeros(13, np.float32)),
    r"conv_2.weight has shape \(12, 12\)": changed(conv_2__weight=np.zeros((12, 12), np.float32)),
    "conv_2.bias holds int32": changed(conv_2__bias=np.zeros(12, np.int32)),
    "no usable .*conv_1.weight": changed(conv_1__weight=None),
    "not a SeemoRe checkpoint": {"fc.weight": np.zeros((2, 2), np.float32)},
    "holds nothing": {},
    "outputs, which is not": changed(upsampler__0__weight=np.zeros((13, 12, 3, 3), np.float32)),
}


@pytest.mark.parametrize("complaint", BROKEN)
def test_tensors_that_are_no_seemore_are_named(tmp_path: Path, complaint: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save(BROKEN[complaint]))
    expected = "not a SeemoRe checkpoint" if complaint == "holds nothing" else complaint
    with pytest.raises(WeightsError, match=expected):
        sj.load(path, **{field: getattr(SMALL, field) for field in ("use_shuffle", "recursive", "topk", "img_range")})


def test_files_that_are_no_weights_give_one_line(tmp_path: Path) -> None:
    sj.save(zeros(SMALL), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "empty").mkdir()
    files = {
        "missing.pth": None,
        "T-x5": None,
        "empty": None,
        "text.txt": b"hello",
        "truncated.safetensors": whole[:-7],
        "huge-header.safetensors": b"\xff" * 64,
        "list.pth": None,
        "numbers.pth": None,
    }
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"params": {7: 1}}, tmp_path / "numbers.pth")
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError) as raised:
            sj.load(tmp_path / name)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("config", ["[1]", "{", '{"topk": "1"}', '{"scale": 3}'])
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_config_json_is_refused(tmp_path: Path, config: str) -> None:
    sj.save(zeros(SMALL), tmp_path / "folder")
    fields = {**SMALL.to_dict(), **json.loads(config)} if config.startswith('{"') else None
    (tmp_path / "folder" / "config.json").write_text(json.dumps(fields) if fields else config)
    with pytest.raises(WeightsError):
        sj.load(tmp_path / "folder")


def test_bundled_names_are_files_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BUNDLED", tmp_path)
    with pytest.raises(WeightsError, match="bundles none"):
        sj.load("T-x4")
    model = ported(release_model(SMALL), SMALL)
    sj.save(model, tmp_path / "T-x2.safetensors")
    np.testing.assert_array_equal(sj.load("T-x2").norm.scale, model.norm.scale)
    with pytest.raises(WeightsError, match="bundled are T-x2"):
        sj.load("T-x4")


@pytest.mark.parametrize("target", ["x.onnx", "x.ckpt"])
def test_unknown_formats_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(WeightsError, match="unknown format"):
        sj.save(zeros(SMALL), tmp_path / target)


@pytest.mark.parametrize("target", FORMATS)
def test_a_failed_save_leaves_the_old_weights(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the one of a full disk."""
    model = ported(release_model(SMALL), SMALL)
    sj.save(model, tmp_path / target)

    def no_space(self: Path, *_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", no_space)
        with pytest.raises(WeightsError, match="No space left"):
            sj.save(zeros(SMALL), tmp_path / target)
    np.testing.assert_array_equal(sj.load(tmp_path / target).norm.scale, model.norm.scale)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == (["README.md", "config.json", "model.safetensors"] if target == "folder" else [target])
