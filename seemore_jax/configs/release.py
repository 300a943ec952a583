"""The training recipe of the PyTorch release, on which the nine published configurations are based."""

from typing import get_type_hints

from ml_collections import ConfigDict, config_dict

from seemore_jax.network.config import SeemoReConfig, stored_fields


def recipe(variant: str, scale: int) -> ConfigDict:
    """Returns the configuration of one published network.

    The training uses DF2K with bicubic LR, the loss L1 + 0.1 · FFT-L1, Adam, and 500,000 steps of 32 patches of 64×64
    LR pixels. ×3 starts from the weights of ×2, and ×4 from those of ×3, without the upsampler.

    Args:
      variant: the variant of the network: "T", "B" or "L".
      scale: the factor of the upscaling: 2, 3 or 4.

    Source: the option files of the release.
    """
    config = ConfigDict()

    # The network.
    config.variant = variant
    config.scale = scale
    config.architecture = _architecture()  # fields that differ from the variant
    config.compute_dtype = "float32"  # or bfloat16
    config.precision = "highest"  # float32 on all backends; "default" is faster on TPU and GPU
    config.rematerialize = False  # True needs less memory and about a third more time
    config.implementation = "auto"  # the best for the backend; or plain, cpu, tpu

    # The data. `validation` has folders and files that `eval.py --data` accepts.
    config.dataset = "df2k"
    config.data_dir = "data"
    config.sources = ()  # folders or images from which image_folder is prepared at the start if it is missing
    config.validation = ()
    config.patch_size = 64  # the side in LR pixels
    config.batch_size = 32  # patches on all devices of all hosts together
    config.degradation = "bicubic"  # or jpeg: LR patches are also stored as JPEG, with random settings
    config.jpeg_quality = (30, 95)  # lowest and highest quality of libjpeg
    config.jpeg_subsampling = ("4:2:0", "4:2:2", "4:4:4")
    config.jpeg_clean_share = 0.1  # of the patches, which are not compressed
    config.validation_degradation = "bicubic"  # or jpeg:QUALITY, such as jpeg:50
    config.num_workers = 4  # processes on each host that decode
    config.data_on_device = False  # True keeps all tiles decoded on the devices, if half of their memory is enough

    # The optimization.
    config.num_steps = 500_000
    config.learning_rate = 1e-3
    config.schedule = "halving"  # or cosine, which ends at final_learning_rate
    config.final_learning_rate = 1e-6
    config.warmup_steps = 0
    config.gradient_clip = 0.0  # the largest global norm; 0 switches clipping off
    config.accumulate = 1  # into how many parts the batch of a device is split; their gradients are accumulated
    config.ema_decay = 0.0  # 0 switches the average off
    config.init_from = f"runs/seemore_{variant.lower()}_x{scale - 1}/weights/final.safetensors" if scale > 2 else ""
    config.seed = 10

    # The run.
    config.log_every = 100
    config.checkpoint_every = 5_000
    config.validate_every = 5_000
    config.keep_checkpoints = 3
    return config


def _architecture() -> ConfigDict:
    """Returns the fields that describe a network, without the scale. None takes the value of the variant."""
    types = get_type_hints(SeemoReConfig)
    names = [name for name in stored_fields() if name != "scale"]
    return ConfigDict({name: config_dict.placeholder(types[name]) for name in names})
