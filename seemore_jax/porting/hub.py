"""Downloads weights from repositories of the Hugging Face hub, and writes the model card of a repository."""

import re
from pathlib import Path

from seemore_jax.network import SeemoReConfig
from seemore_jax.porting.errors import WeightsError
from seemore_jax.version import __version__

# The files of a repository that are downloaded.
FILES = ("config.json", "model.safetensors")

# Owner and name in the characters that the hub allows, and optionally a branch, tag or commit.
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*(@\w[\w./+-]*)?", re.ASCII)
# Names with these endings are taken for files, although the hub allows them.
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

Image super-resolution: this network enlarges RGB images to {scale} times their height and width. It is a
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

`model.safetensors` has the parameters under the names of the PyTorch release, and `config.json` has the options of the
network. With PyTorch:

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
    """Returns whether a string has the form of a repository: `user/name` or `user/name@revision`.

    Args:
      source: the string. If it ends in the suffix of a weights file, it is not taken for a repository.
    """
    return _REPOSITORY.fullmatch(source) is not None and not source.lower().endswith(_FILE_SUFFIXES)


def download(source: str) -> Path:
    """Downloads the configuration and the weights of a repository into the cache of the hub's client.

    Args:
      source: `user/name`, or `user/name@revision` for a branch, a tag or a commit. Without a revision, the newest
        commit of `main` is taken.

    Returns:
      The local folder with the files.

    Raises:
      WeightsError: the hub's client is not installed, the hub cannot be reached, or there is no such repository,
        revision or file.
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
    except Exception as error:  # also the exceptions of the client's HTTP library
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise WeightsError(f"{source}: cannot be fetched from the Hugging Face hub: {reason}") from error
    if not (Path(folder) / "model.safetensors").exists():
        raise WeightsError(f"{source}: this repository on the Hugging Face hub has no model.safetensors")
    return Path(folder)


def model_card(config: SeemoReConfig, parameters: int, license: str) -> str:
    """Returns the text of a model card, README.md.

    The card has metadata for the hub (YAML), a description of the network, and examples that load it.

    Args:
      config: the configuration of the network.
      parameters: the number of the network's parameters.
      license: the licence of the weights in the hub's spelling, such as "apache-2.0". "unknown" adds a note that asks
        the publisher to name the licence.
    """
    name = f"SeemoRe-{config.variant_name}" if config.variant_name else "SeemoRe"
    note = ", who also has to replace `license: unknown` above" if license == "unknown" else ""
    return _CARD.format(name=name, scale=config.scale, parameters=parameters, license=license, license_note=note)
