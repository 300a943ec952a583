"""Trains a SeemoRe: the command `seemore-jax train`, in a checkout.

python train.py --config=configs/seemore_t_x4.py --workdir=DIR [--config.FIELD=VALUE ...]
"""

from seemore_jax.command_line.train import main

if __name__ == "__main__":
    main()
