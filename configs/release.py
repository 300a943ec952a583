"""The recipe of the release, from which the nine published configurations are made."""

from typing import get_type_hints

from ml_collections import ConfigDict, config_dict

from seemore_jax.network.config import SeemoReConfig, stored_fields


def recipe(variant: str, scale: int) -> ConfigDict:
    """The experiment of one published configuration: `variant` T, B or L at `scale` 2, 3 or 4.

    DF2K with bicubic LR, L1 + 0.1 · FFT-L1, Adam, 500,000 steps of 32 patches of 64×64 LR pixels. ×3 starts from the
    weights of ×2 and ×4 from those of ×3, all but the upsampler.
    """
    config = ConfigDict()

    # The network.
    config.variant = variant
    config.scale = scale
    config.architecture = _architecture()  # what differs from the variant
    config.compute_dtype = "float32"  # or bfloat16
    config.precision = "highest"  # float32 on every backend; "default" is faster on TPU and GPU
    config.rematerialize = False  # less memory, about a third more time
    config.implementation = "auto"  # by backend; or plain, cpu, tpu

    # The data. `validation` has folders as `eval.py --data` takes them.
    config.dataset = "df2k"
    config.data_dir = "data"
    config.sources = ()  # folders or images that image_folder is prepared from at the start, if it is missing
    config.validation = ()
    config.patch_size = 64  # LR pixels
    config.batch_size = 32  # over all devices of all hosts
    config.degradation = "bicubic"  # or jpeg: LR patches are also stored as JPEG, with random settings
    config.jpeg_quality = (30, 95)  # lowest and highest quality of libjpeg
    config.jpeg_subsampling = ("4:2:0", "4:2:2", "4:4:4")
    config.jpeg_clean_share = 0.1  # of the patches, which are not compressed
    config.validation_degradation = "bicubic"  # or jpeg:QUALITY, such as jpeg:50
    config.num_workers = 4  # processes that decode, on each host
    config.data_on_device = False  # True: decode all tiles once onto the devices, if half their memory suffices

    # The optimization.
    config.num_steps = 500_000
    config.learning_rate = 1e-3
    config.schedule = "halving"  # or cosine, down to final_learning_rate
    config.final_learning_rate = 1e-6
    config.warmup_steps = 0
    config.gradient_clip = 0.0  # largest global norm; 0 is off
    config.accumulate = 1  # pieces of a device's batch, one after the other
    config.ema_decay = 0.0  # 0 is off
    config.init_from = f"runs/seemore_{variant.lower()}_x{scale - 1}/weights/final.safetensors" if scale > 2 else ""
    config.seed = 10

    # The run.
    config.log_every = 100
    config.checkpoint_every = 5_000
    config.validate_every = 5_000
    config.keep_checkpoints = 3
    return config


def _architecture() -> ConfigDict:
    """The fields that describe a network, but for the scale; None is the variant's own value."""
    types = get_type_hints(SeemoReConfig)
    names = [name for name in stored_fields() if name != "scale"]
    return ConfigDict({name: config_dict.placeholder(types[name]) for name in names})
