"""Configuration of a training run that compiles in seconds, for tests that start `train.py` as a user does."""

from ml_collections import ConfigDict

from seemore_jax.configs.release import recipe


def get_config() -> ConfigDict:
    config = recipe("T", 2)
    config.architecture.num_layers = 1
    config.architecture.embedding_dim = 8
    config.architecture.recursive = 1
    config.architecture.global_kernel_size = 3
    config.architecture.topk = 1
    config.dataset = "image_folder"
    config.patch_size = 16
    config.batch_size = 8
    config.num_workers = 0
    config.num_steps = 30
    config.ema_decay = 0.9
    config.log_every = 1
    config.checkpoint_every = 3
    config.validate_every = 100
    return config
