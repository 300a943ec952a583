"""Experiments that come with the package: the published ones, ablations, and those of the bundled weights.

`train --config=seemore_t_x4` takes one by its name. In a checkout, the folder `configs` leads here.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent


def config_file(name: str) -> str:
    """Returns the path of a configuration file.

    Args:
      name: the path of a file, or the name of a configuration of this package, such as "seemore_t_x4". Outside of a
        checkout, "configs/seemore_t_x4.py" also stands for the name. What follows a colon is the file's argument, as in
        "ablations:topk_2", and stays.
    """
    path, colon, argument = name.partition(":")
    packaged = _FOLDER / f"{Path(path).stem}.py"
    is_name = path in (packaged.stem, f"configs/{packaged.name}") and packaged.is_file() and packaged.stem != "__init__"
    return f"{packaged}{colon}{argument}" if is_name and not Path(path).is_file() else name
