"""Where the options of the authors' PyTorch implementation ("the reference") went, and the words of other packages.

Errors take their hints from here, and docs/from_the_reference.md shows the first table.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_IMAGES = "not needed: report.html, samples/ and tensorboard/ in --out show images and losses"
_WANDB = "not needed: events.jsonl and tensorboard/ in --out hold the losses"
_CHECKPOINT = "translate --engine: a run's folder (its newest checkpoint), or one in checkpoints/"
_ALL_INPUT = "not needed: translate --input names the images, and all of them are translated"

# Options of its train and test scripts, of every version, by group: where they went, or why there is none.
REFERENCE_OPTIONS = {
    # Data
    "dataroot": "--data",
    "dataset_mode": "--paired, for aligned pairs (--model pix2pix takes them by itself); unaligned is the default",
    "align_data": "--paired",
    "phase": "not needed: training reads trainA and trainB, and translate --input takes any folder",
    "direction": "--direction",
    "which_direction": "--direction",
    "preprocess": "--preprocess",
    "resize_or_crop": "--preprocess",
    "load_size": "--load-size",
    "loadSize": "--load-size",
    "crop_size": "--crop-size",
    "fineSize": "--crop-size",
    "no_flip": "--no-flip",
    "serial_batches": "--serial-batches",
    "max_dataset_size": "--max-dataset-size",
    "num_threads": "--workers",
    "nThreads": "--workers",
    "input_nc": "--channels-A",
    "output_nc": "--channels-B",
    # Networks
    "model": "--model, cyclegan by default, or pix2pix",
    "netG": "--generator",
    "which_model_netG": "--generator",
    "netD": "--discriminator",
    "which_model_netD": "--discriminator",
    "n_layers_D": "--n-layers",
    "ngf": "--ngf",
    "ndf": "--ndf",
    "norm": "--norm",
    "init_type": "--init-type",
    "init_gain": "--init-gain",
    "no_dropout": "--no-dropout, which is the default",
    # Losses
    "gan_mode": "--gan-mode",
    "no_lsgan": "--gan-mode vanilla",
    "lambda_A": "--lambda-A",
    "lambda_B": "--lambda-B",
    "lambda_identity": "--lambda-identity",
    "identity": "--lambda-identity",
    "lambda_L1": "--lambda-L1",
    "pool_size": "--pool-size",
    # Optimisation
    "batch_size": "--batch-size",
    "batchSize": "--batch-size",
    "lr": "--lr",
    "beta1": "--beta1",
    "n_epochs": "--n-epochs",
    "niter": "--n-epochs",
    "n_epochs_decay": "--n-epochs-decay",
    "niter_decay": "--n-epochs-decay",
    "lr_policy": "--lr-policy",
    "lr_decay_iters": "--lr-decay-iters",
    # The run
    "name": "--out, the whole path of the run's folder",
    "checkpoints_dir": "--out, the whole path of the run's folder",
    "suffix": "--out, the whole path of the run's folder",
    "gpu_ids": "--device cuda:0 for one GPU, --device cpu for -1",
    "continue_train": "--resume auto, which continues exactly",
    "epoch_count": "not needed: --resume auto knows the epoch",
    "print_freq": "--log-every, in steps",
    "display_freq": "--sample-every, in steps",
    "update_html_freq": "--sample-every, in steps",
    "no_html": "--sample-every 0",
    "display_id": _IMAGES,
    "display_ncols": _IMAGES,
    "display_server": _IMAGES,
    "display_env": _IMAGES,
    "display_port": _IMAGES,
    "display_winsize": _IMAGES,
    "use_wandb": _WANDB,
    "wandb_project_name": _WANDB,
    "save_latest_freq": "--checkpoint-every, in steps",
    "save_epoch_freq": "--checkpoint-every, in steps",
    "save_by_iter": "not needed: checkpoints are named by their step; --keep-checkpoints 0 keeps all",
    "verbose": "not needed: --print-config prints all settings, and config.yaml in --out holds them",
    # Testing
    "results_dir": "translate --output",
    "epoch": _CHECKPOINT,
    "which_epoch": _CHECKPOINT,
    "load_iter": _CHECKPOINT,
    "model_suffix": "translate --direction",
    "num_test": _ALL_INPUT,
    "how_many": _ALL_INPUT,
    "ntest": _ALL_INPUT,
    "aspect_ratio": "not needed: results keep the size of their images",
    "eval": "not needed: engines run without dropout and with the stored statistics of batch norm",
}

# Words of other packages: the flags that they may mean; a command has at most one of them.
OTHER_WORDS = {
    "accumulate_grad_batches": "--grad-accumulation",
    "gradient_accumulation_steps": "--grad-accumulation",
    "b1": "--beta1",
    "b2": "--beta2",
    "batch": "--batch-size",
    "train_batch_size": "--batch-size",
    "bf16": "--amp bf16",
    "fp16": "--amp fp16, --precision fp16",
    "mixed_precision": "--amp",
    "precision": "--amp",
    "channels": "--channels-A and --channels-B",
    "checkpoint_interval": "--checkpoint-every",
    "save_every": "--checkpoint-every",
    "ckpt": "--init-from, --checkpoint, --engine",
    "checkpoint": "--init-from, --engine",
    "pretrained": "--init-from, --checkpoint, --engine",
    "weights": "--init-from, --checkpoint, --engine",
    "continue": "--resume auto",
    "data_dir": "--data",
    "data_path": "--data",
    "data_root": "--data",
    "dataset": "--data",
    "dataset_name": "--data",
    "train_dir": "--data",
    "decay_epoch": "--n-epochs and --n-epochs-decay",
    "epochs": "--n-epochs and --n-epochs-decay",
    "max_epochs": "--n-epochs and --n-epochs-decay",
    "num_epochs": "--n-epochs and --n-epochs-decay",
    "gpu": "--device cuda:0",
    "gpus": "--device cuda:0",
    "image_size": "--crop-size and --load-size, --size",
    "img_size": "--crop-size and --load-size, --size",
    "resolution": "--crop-size and --load-size, --size",
    "size": "--crop-size and --load-size",
    "iterations": "--max-steps, --steps",
    "max_iter": "--max-steps, --steps",
    "steps": "--max-steps",
    "lambda_cyc": "--lambda-A and --lambda-B",
    "lambda_cycle": "--lambda-A and --lambda-B",
    "lambda_id": "--lambda-identity",
    "lambda_idt": "--lambda-identity",
    "learning_rate": "--lr",
    "log_interval": "--log-every",
    "manual_seed": "--seed",
    "random_seed": "--seed",
    "n_blocks": "--generator resnet_6blocks",
    "n_residual_blocks": "--generator resnet_6blocks",
    "n_cpu": "--workers",
    "num_workers": "--workers",
    "log_dir": "--out, --output",
    "outdir": "--out, --output",
    "output_dir": "--out, --output",
    "save_dir": "--out, --output",
    "sample_interval": "--sample-every",
    "source": "--input",
    "target": "--output",
}

# Names of other packages' scripts: the command that does the same.
OTHER_COMMANDS = {"test": "translate", "infer": "translate", "inference": "translate", "predict": "translate"}

_LOWER_CASE = {name.lower(): text for name, text in REFERENCE_OPTIONS.items()}


def hint_for(option: str, flags: Collection[str]) -> str:
    """Returns where an option of the reference or of another package went: ``: here it is --lr``; empty if unknown.

    Args:
        option: With or without dashes or underscores.
        flags: Those of the command that does not know the option.
    """
    name = option.lstrip("-").replace("-", "_").lower()
    for text in OTHER_WORDS.get(name, "").split(", "):
        if first_flag(text) in flags:
            return f": here it is {text}"
    text = _LOWER_CASE.get(name, "")
    if text.startswith("--") and first_flag(text) not in flags:
        text = f"train {text}"
    return f": {'' if text.startswith('not') else 'here it is '}{text}" if text else ""


def first_flag(text: str) -> str:
    """Returns the first flag that a text names; empty if it names none."""
    found = re.search(r"--[\w-]+", text)
    return found[0] if found else ""


def reference_table() -> str:
    """Returns the options of the reference as a table in Markdown, sorted by name."""
    rows = [
        f"| `--{name}` | {_as_code(REFERENCE_OPTIONS[name])} |" for name in sorted(REFERENCE_OPTIONS, key=str.lower)
    ]
    return "\n".join(["| The reference | Here |", "|---|---|", *rows])


def _as_code(text: str) -> str:
    words = r"((?:translate )?--[\w-]+(?: (?:vanilla|auto|cpu|cuda:0|0))?|\w+\.(?:html|jsonl|yaml)|\w+/|train[AB])"
    return re.sub(words, r"`\1`", text)
