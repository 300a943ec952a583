"""Weights in the Hugging Face hub's repositories: fetching them, and the card that describes them there."""

import re
from pathlib import Path

from seemore_jax.network import SeemoReConfig
from seemore_jax.porting.errors import WeightsError
from seemore_jax.version import __version__

# All that is fetched of a repository.
FILES = ("config.json", "model.safetensors")

# Owner and name as the hub allows them, but for these endings, which belong to files; then a branch, tag or commit.
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*(@\w[\w./+-]*)?", re.ASCII)
_FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".onnx", ".stablehlo")

_CARD = """\
---
library_name: seemore-jax
license: {license}
pipeline_tag: image-to-image
tags:
- super-resolution
- image-upscaling
- seemore
- jax
---

# {name} ×{scale}

Image super-resolution: this network makes RGB images {scale} times as high and wide. It is a
[SeemoRe](https://arxiv.org/abs/2402.03412) (*See More Details: Efficient Image Super-Resolution by Experts Mining*,
ICML 2024) with {parameters:,} parameters, in float32.

## Use

With seemore-jax (JAX), where DIRECTORY is this directory, or `user/repository` on the hub:

```python
import seemore_jax as sj

model = sj.load("DIRECTORY")
large = sj.upscale(model, image)  # (H, W, 3) uint8 → ({scale}·H, {scale}·W, 3) uint8
```

```sh
python -m seemore_jax upscale photo.png -o photo_large.png -m DIRECTORY
```

`model.safetensors` has the parameters under the names of the PyTorch release, `config.json` its options. With PyTorch:

```python
import json
from pathlib import Path

from safetensors.torch import load_file
from seemore.module import SeemoRe

options = json.loads(Path("config.json").read_text())
del options["model_type"]
network = SeemoRe(**options).eval()
network.load_state_dict(load_file("model.safetensors"))
```

## Training data, results, licence

To be added by whoever publishes these weights{license_note}.
"""


def is_repository_name(source: str) -> bool:
    """Whether `source` has the form `user/name` or `user/name@revision`, and does not end in the suffix of a file."""
    return _REPOSITORY.fullmatch(source) is not None and not source.lower().endswith(_FILE_SUFFIXES)


def download(source: str) -> Path:
    """The local folder with the configuration and the weights of a repository; the hub's client keeps it in its cache.

    Args:
      source: `user/name`, or `user/name@revision` with a branch, a tag or a commit other than the newest of `main`.

    Raises:
      WeightsError: the hub's client is not installed, the hub cannot be reached, or has no such repository, revision
        or files.
    """
    repository, _, revision = source.partition("@")
    missing = f"{source}: no such file or directory"
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        hint = "to fetch it as a repository of the Hugging Face hub: pip install 'seemore-jax[hub]'"
        raise WeightsError(f"{missing}; {hint}") from error
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(FILES),
            library_name="seemore-jax",
            library_version=__version__,
        )
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{repository}"
        raise WeightsError(f"{source}: accept the conditions on {page}, then run hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        hint = "if it is private, run hf auth login"
        raise WeightsError(f"{missing}, and no such repository on the Hugging Face hub ({hint})") from error
    except errors.RevisionNotFoundError as error:
        wanted = f"no branch, tag or commit {revision or 'main'}"
        raise WeightsError(f"{source}: this repository on the Hugging Face hub has {wanted}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        hint = "try again with a connection, or give a local path"
        raise WeightsError(f"{missing}, and the Hugging Face hub cannot be reached; {hint}") from error
    except Exception as error:  # its HTTP library's own, too
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise WeightsError(f"{source}: cannot be fetched from the Hugging Face hub: {reason}") from error
    if not (Path(folder) / "model.safetensors").exists():
        raise WeightsError(f"{source}: this repository on the Hugging Face hub has no model.safetensors")
    return Path(folder)


def model_card(config: SeemoReConfig, parameters: int, license: str) -> str:
    """The README.md of a repository: what the hub reads (YAML), what the network is, and how to load it.

    Args:
      config: of the network.
      parameters: how many it has.
      license: of the weights, as the hub spells it ("apache-2.0"); "unknown" asks the publisher to say.
    """
    name = f"SeemoRe-{config.variant_name}" if config.variant_name else "SeemoRe"
    note = ", who also has to replace `license: unknown` above" if license == "unknown" else ""
    return _CARD.format(name=name, scale=config.scale, parameters=parameters, license=license, license_note=note)
