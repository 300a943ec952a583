"""Evaluates weights, or bicubic, on benchmark sets: the command `seemore-jax evaluate`, in a checkout.

python eval.py --config=configs/seemore_t_x4.py --weights=FILE --data=DIR[,DIR...] --output=DIR
"""

from seemore_jax.command_line.evaluate import main

if __name__ == "__main__":
    main()
