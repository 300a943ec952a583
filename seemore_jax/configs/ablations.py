"""The paper's ablations: SeemoRe-T ×2 with one design choice changed. Select one by --config=configs/ablations.py:NAME

| NAME | parameters | GMACs |
|---|---:|---:|
| published | 220,104 | 44.48 |
| exp_2 | 214,392 | 44.23 |
| exp_4 | 231,096 | 44.90 |
| linear_2 | 213,732 | 44.15 |
| linear_3 | 216,804 | 44.23 |
| linear_4 | 220,536 | 44.30 |
| double_2 | 214,392 | 44.23 |
| double_3 | 218,784 | 44.38 |
| double_4 | 224,496 | 44.53 |
| topk_2 | 220,104 | 45.17 |
| topk_3 | 220,104 | 45.87 |
| recursive_0 | 220,104 | 46.66 |
| recursive_1 | 220,104 | 44.61 |
| recursive_3 | 220,104 | 44.47 |
| kernel_3 | 216,648 | 43.68 |
| kernel_7 | 218,376 | 44.08 |
| kernel_15 | 221,832 | 44.88 |
| kernel_21 | 224,424 | 45.47 |
| no_shuffle | 220,104 | 44.48 |

The multiply-accumulates are for a 1280×720 output, as `SeemoReConfig.macs` counts them, if all experts are chosen
equally often. For the published network, the paper reports 44.83, for an image whose chosen experts have a mean rank
of 7.

Source: the ablations in the SeemoRe paper (arXiv 2402.03412).
"""

from typing import Any

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe

ABLATIONS: dict[str, dict[str, Any]] = {
    "published": {},
    # The low-rank space: how the ranks of the experts grow, and the number of experts.
    "exp_2": {"num_experts": 2},
    "exp_4": {"num_experts": 4},
    **{
        f"{space}_{count}": {"lr_space": space, "num_experts": count}
        for space in ("linear", "double")
        for count in (2, 3, 4)
    },
    # The number of experts that are chosen for each image and layer.
    "topk_2": {"topk": 2},
    "topk_3": {"topk": 3},
    # How many times the sides of the context are reduced by 4.
    "recursive_0": {"recursive": 0},
    "recursive_1": {"recursive": 1},
    "recursive_3": {"recursive": 3},
    # The length of the striped convolutions.
    **{f"kernel_{length}": {"global_kernel_size": length} for length in (3, 7, 15, 21)},
    "no_shuffle": {"use_shuffle": False},
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the configuration of one ablation.

    Args:
      name: one of the names in `ABLATIONS`.

    Raises:
      ValueError: there is no such ablation.
    """
    if name not in ABLATIONS:
        names = ", ".join(ABLATIONS)
        raise ValueError(f"give one of the ablations after a colon, as in configs/ablations.py:topk_2: {names}")
    config = recipe("T", 2)
    config.architecture.update(ABLATIONS[name])
    return config
