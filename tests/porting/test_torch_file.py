"""If these fail, `.pth` files are misread, or a malicious file can do harm."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seemore_jax.porting import WeightsError
from seemore_jax.porting.torch_file import read_torch_file, write_torch_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool],
    ids=str,
)
def test_reads_every_dtype(tmp_path: Path, zipped: bool, dtype: torch.dtype) -> None:
    tensor = (torch.arange(24).reshape(2, 3, 4) % 7 - 3).to(dtype)
    read = read_torch_file(save({"a": tensor}, tmp_path / "x.pth", zipped))["a"]
    assert read.dtype.name == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(read.astype(np.float64), tensor.double().numpy())


@FORMATS
def test_reads_views_parameters_scalars_and_shared_storages(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(30.0).reshape(5, 6)
    content: dict[str, Any] = OrderedDict(
        transposed=base.T,
        part=base[1:4, 2:5],
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(base),
        nested={"list": [1, 2.5, "text", None, True], "size": base.shape},
    )
    read = read_torch_file(save(content, tmp_path / "x.pth", zipped))
    for name in ("transposed", "part", "scalar", "empty", "parameter"):
        np.testing.assert_array_equal(read[name], content[name].detach().numpy())
    assert read["nested"] == {"list": [1, 2.5, "text", None, True], "size": (5, 6)}


def test_reads_without_pytorch(tmp_path: Path) -> None:
    path = save({"a": torch.ones(2, 3)}, tmp_path / "x.pth")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from seemore_jax.porting.torch_file import read_torch_file, write_torch_file\n"
        f"content = read_torch_file({str(path)!r})\n"
        f"write_torch_file({str(tmp_path / 'y.pth')!r}, content, {{}})\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)
    assert torch.equal(torch.load(tmp_path / "y.pth", weights_only=True)["params"]["a"], torch.ones(2, 3))


def test_pytorch_reads_what_is_written_in_its_safe_mode(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {
        "weight": np.random.default_rng(0).normal(size=(3, 2, 1, 5)).astype(np.float32),
        "not contiguous": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    extra = {"config": {"scale": 4, "img_range": 255.0, "use_shuffle": True, "lr_space": "exp"}}
    write_torch_file(tmp_path / "x.pth", tensors, extra)
    read = torch.load(tmp_path / "x.pth", weights_only=True)
    assert read["config"] == extra["config"]
    for name, tensor in tensors.items():
        assert read["params"][name].dtype == torch.float32
        np.testing.assert_array_equal(read["params"][name].numpy(), tensor)
        np.testing.assert_array_equal(read_torch_file(tmp_path / "x.pth")["params"][name], tensor)


class Attack:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@FORMATS
@pytest.mark.parametrize("function", [os.system, eval, exec, pickle.loads, getattr, os.makedirs])
def test_refuses_to_run_anything_and_names_it(tmp_path: Path, zipped: bool, function: Any) -> None:
    harm = tmp_path / "harm"
    argument = f"touch {harm}" if function is os.system else str(harm)
    path = save({"params": Attack(function, argument)}, tmp_path / "x.pth", zipped)
    with pytest.raises(WeightsError, match=rf"refused: the file asks for \w+\.{function.__name__}"):
        read_torch_file(path)
    assert not harm.exists()


def test_refuses_whole_pickled_models(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules"):
        read_torch_file(save(torch.nn.Linear(2, 2), tmp_path / "x.pth"))


def archive(pickled: bytes, storage: bytes = b"\0" * 16, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/data/0", storage)
    return buffer.getvalue()


def tensor_pickle(count: int, offset: int, shape: str, strides: str) -> bytes:
    """Returns the pickle of a float32 tensor with the given size, offset, shape and strides, in text opcodes."""
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
        b"X\x01\0\0\x000X\x03\0\0\0cpu" + f"I{count}\n".encode() + b"tQ" + f"I{offset}\n".encode()
        + f"{shape}{strides}".encode() + b"I00\n}tR."
    )  # fmt: skip


HOSTILE = {
    "reaches beyond its storage": tensor_pickle(4, 2, "(I3\nt", "(I1\nt"),
    "repeats a storage to a petabyte": tensor_pickle(4, 0, "(I1000000000000000\nt", "(I0\nt"),
    "has a negative stride": tensor_pickle(4, 3, "(I4\nt", "(I-1\nt"),
    "has a negative offset": tensor_pickle(4, -1, "(I1\nt", "(I1\nt"),
    "claims a longer storage": tensor_pickle(1 << 40, 0, "(I4\nt", "(I1\nt"),
    "has fewer strides than sides": tensor_pickle(4, 0, "(I2\nI2\nt", "(I1\nt"),
    "memoizes at a huge index": b"\x80\x02}r\xff\xff\xff\x7f.",
    "is endless nesting": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "sets attributes of the reader": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x06\0\0\0_applyK\x01s\x86b.",
    "widens a checked tensor": tensor_pickle(4, 0, "(I4\nt", "(I1\nt")[:-1]
    + b"}(X\x05\0\0\0shape(I100000\ntX\x07\0\0\0strides(I1\ntub.",
    "widens a checked tensor through its slots": tensor_pickle(4, 0, "(I4\nt", "(I1\nt")[:-1]
    + b"N}(X\x05\0\0\0shape(I100000\ntX\x07\0\0\0strides(I1\ntu\x86b.",
    "is empty": b"",
    "is text": b"weights",
}


def test_the_hostile_pickles_have_only_one_fault(tmp_path: Path) -> None:
    """Otherwise the next test could pass because of another fault."""
    (tmp_path / "x.pth").write_bytes(archive(tensor_pickle(4, 1, "(I3\nt", "(I1\nt")))
    np.testing.assert_array_equal(read_torch_file(tmp_path / "x.pth"), np.zeros(3, np.float32))


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_tensors_give_one_line(tmp_path: Path, fault: str) -> None:
    (tmp_path / "x.pth").write_bytes(archive(HOSTILE[fault]))
    with pytest.raises(WeightsError) as raised:
        read_torch_file(tmp_path / "x.pth")
    assert "\n" not in str(raised.value)


def test_shared_lists_do_not_explode(tmp_path: Path) -> None:
    """Each level contains the level below twice. With a copy each time, 200 levels would never end."""
    content: list[Any] = []
    for _ in range(200):
        content = [content, content]
    (tmp_path / "x.pth").write_bytes(archive(pickle.dumps(content, protocol=2)))
    assert len(read_torch_file(tmp_path / "x.pth")) == 2


@FORMATS
def test_big_endian_files_are_refused(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    path = save({"a": torch.ones(2)}, tmp_path / "x.pth", zipped)
    with pytest.raises(WeightsError, match="big-endian"):
        read_torch_file(path)


def test_refuses_compressed_archives(tmp_path: Path) -> None:
    """Compressed archives could unpack to any size."""
    pickled = tensor_pickle(4, 0, "(I4\nt", "(I1\nt")
    (tmp_path / "x.pth").write_bytes(archive(pickled, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(WeightsError, match="compressed"):
        read_torch_file(tmp_path / "x.pth")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    folder = tmp_path_factory.mktemp("checkpoints")
    content = {"params": {f"layer{i}.weight": torch.randn(4, 3) for i in range(5)}}
    return {zipped: save(content, folder / "x.pth", zipped).read_bytes() for zipped in (True, False)}


@FORMATS
@given(data=st.data())
def test_damage_never_gives_anything_but_a_weights_error(
    checkpoints: dict[bool, bytes], tmp_path_factory: pytest.TempPathFactory, zipped: bool, data: st.DataObject
) -> None:
    whole = checkpoints[zipped]
    damaged = bytearray(whole)
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4), label="changed bytes"):
        damaged[position] ^= data.draw(st.integers(1, 255))
    length = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))), label="length")
    path = tmp_path_factory.getbasetemp() / f"damaged-{zipped}.pth"
    path.write_bytes(damaged[:length])
    try:
        read_torch_file(path)
    except WeightsError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
