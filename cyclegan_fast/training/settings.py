"""Which settings of a run go together, with each other and with the device."""

from __future__ import annotations

import dataclasses
import logging

import torch

from cyclegan_fast import ops
from cyclegan_fast.config import ObjectiveConfig, RunConfig, TrainConfig, check_ranges
from cyclegan_fast.data.scored_images import scored_data
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation.features import check_features
from cyclegan_fast.metrics import find_metric, refuse_unscored
from cyclegan_fast.models import WEIGHTS, directed_score, model_of
from cyclegan_fast.training.concurrency import why_not_side_by_side

log = logging.getLogger(__name__)

PAPER_NGF, PAPER_SIDE = 64, 256
SMALL_SIZES = "--generator resnet_3blocks --ngf 16 --ndf 32 --load-size 64 --crop-size 64"


def resolve_settings(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Checks the settings of a run on `device` and returns them as the run uses them.

    Raises:
        UserError: A number is out of its range, or settings contradict each other or the device.
    """
    check_ranges(config)
    _log_weights_without_effect(config)
    config = _without_identity_across_channels(_with_pairs(config))
    _check_objective(config)
    _check_precision(config, device)
    _check_step(config, device)
    _check_score(config)
    config = _with_directed_score(config)
    if config.optim.lr == 0:
        log.warning("--lr 0: training changes no weight")
    return config


def uses_cuda_graph(config: TrainConfig, device: torch.device) -> bool:
    """Returns whether the step runs as a CUDA graph; logs why not where ``auto`` finds no CUDA.

    Raises:
        UserError: A graph is required and there is no CUDA, or the settings rule one out.
    """
    choice, data = config.run.cuda_graphs, config.data
    if choice == "off":
        return False
    if device.type != "cuda":
        reason = "--device is not a CUDA device" if torch.cuda.is_available() else "there is no CUDA device"
        if choice == "on":
            raise UserError(f"--cuda-graphs=on: {reason}; --cuda-graphs alone trains without them here")
        log.info("cuda graphs: off, %s", reason)
        return False
    if not data.has_one_size:
        raise UserError(
            f"--cuda-graphs: --preprocess {data.preprocess} gives images of several sizes; leave out one of both"
        )
    log.info("cuda graphs: on")
    return True


def _without_identity_across_channels(config: TrainConfig) -> TrainConfig:
    """Turns the identity loss off where A and B differ in channels: an image of B is then no input of G_A."""
    objective, model = config.objective, config.model
    trained = "idt_A" in model_of(config).losses and objective.lambda_identity
    if not trained or model.channels_A == model.channels_B:
        return config
    log.info("identity loss: off, images of A have %d channel(s) and those of B %d", model.channels_A, model.channels_B)
    return dataclasses.replace(config, objective=dataclasses.replace(objective, lambda_identity=0.0))


def _with_pairs(config: TrainConfig) -> TrainConfig:
    """Takes the images as pairs where the model learns from them, and logs that CycleGAN does not."""
    if model_of(config).needs_pairs:
        log.info("pairs: --model %s takes A and B as pairs, as --paired does", config.model.model)
        return dataclasses.replace(config, data=dataclasses.replace(config.data, paired=True))
    if config.data.paired:
        log.info(
            "--paired: A and B are sampled, cropped and flipped as pairs, and test images are scored as such; the "
            "losses of %s do not see that they are: --model pix2pix learns from the partner",
            model_of(config).title,
        )
    return config


def _log_weights_without_effect(config: TrainConfig) -> None:
    """Logs the weights that were given, as they are not the defaults, and that the model has no loss for."""
    model, objective, defaults = config.model.model, config.objective, ObjectiveConfig()
    given = [name for name in WEIGHTS if getattr(objective, name) not in (0, getattr(defaults, name))]
    if unused := [f"--{name.replace('_', '-')}" for name in given if name not in model_of(config).weights]:
        log.info("no effect: --model %s has no loss that %s weighs", model, " or ".join(unused))
    if objective.lambda_gp != defaults.lambda_gp and objective.gan_mode != "wgangp":
        log.info("no effect: --lambda-gp is the weight of a penalty that --gan-mode wgangp alone has")


def _check_objective(config: TrainConfig) -> None:
    objective, optim = config.objective, config.optim
    _check_weights(config)
    _check_images_of(config)
    if optim.n_epochs + optim.n_epochs_decay < 1:
        raise UserError("nothing to train: --n-epochs and --n-epochs-decay are both 0")
    if objective.gan_mode == "wgangp" and not config.data.has_one_size:
        raise UserError("--gan-mode wgangp mixes images of one size: use a --preprocess mode that crops")


def _check_weights(config: TrainConfig) -> None:
    """Checks that a loss is left of those that train the generators."""
    o = config.objective
    weights = {name: getattr(o, name) for name in model_of(config).weights if name != "lambda_identity"}
    if len(weights) == 1 and not o.lambda_gan:
        raise UserError(f"nothing to train: --lambda-gan is 0, and {model_of(config).title} has no other loss")
    if not any(weights.values()):
        flags = [f"--{name.replace('_', '-')}" for name in weights]
        raise UserError(
            f"nothing to train: {', '.join(flags[:-1])} and {flags[-1]} are {'all' * (len(flags) > 2) or 'both'} 0"
        )


def _check_images_of(config: TrainConfig) -> None:
    """Checks that images of A and of B can be compared or joined where the model does so."""
    model, shapes, name = model_of(config), config.model, config.model.model
    if "self_A" in model.losses and config.objective.lambda_self and shapes.channels_A != shapes.channels_B:
        raise UserError(
            f"--model {name} compares an output with its input, and images of A have {shapes.channels_A} channel(s), "
            f"those of B {shapes.channels_B}: --lambda-self 0 leaves that out"
        )
    if "AB" in model.discriminators.values() and not model.needs_pairs and not config.data.has_one_size:
        raise UserError(f"--model {name} joins images of A and B, of one size: use a --preprocess mode that crops")
    if model.draws_latents and not config.data.has_one_size:
        raise UserError(f"--model {name} makes images of A and B of one size: use a --preprocess mode that crops")
    if model.draws_latents and not shapes.generator.startswith("resnet"):
        raise UserError(
            f"--model {name} makes images of what stands between the encoder and the decoder of a generator, which "
            f"skip connections go around: use --generator resnet_<N>blocks, got {shapes.generator}"
        )


def _check_precision(config: TrainConfig, device: torch.device) -> None:
    if config.run.amp == "fp16" and device.type != "cuda":
        raise UserError("--amp fp16 needs a CUDA device; on the CPU use --amp bf16")
    if config.run.amp == "bf16" and ops.bfloat16_is_slow(device, channels_last=config.run.channels_last):
        log.warning(
            "--amp: this CPU has no bfloat16, so that torch's convolutions are many times slower in it: leave it out"
        )


def _check_step(config: TrainConfig, device: torch.device) -> None:
    run, model = config.run, config.model
    if run.activation_checkpointing and (model.norm == "batch" or not model.generator.startswith("resnet")):
        raise UserError("--activation-checkpointing works for --generator resnet_<N>blocks without --norm batch")
    if run.compile and model_of(config).draws_latents:
        raise UserError(
            f"--compile: {model_of(config).title} runs parts of its generators, and it compiles whole networks; leave "
            "it out"
        )
    if run.side_by_side == "on" and (reason := why_not_side_by_side(config, device)):
        raise UserError(f"--side-by-side: {reason}; leave it out")


def _with_directed_score(config: TrainConfig) -> TrainConfig:
    """Names the direction in --score where the model has one alone."""
    score = directed_score(model_of(config), config.run.score)
    return dataclasses.replace(config, run=dataclasses.replace(config.run, score=score))


def _check_score(config: TrainConfig) -> None:
    run, defaults = config.run, RunConfig()
    try:
        find_metric(run.score)
    except UserError as error:
        raise UserError(f"--score: {error}") from error
    refuse_unscored(
        run.score, pairs=scored_data(config).paired, features=run.features is not None, flag="--eval-paired"
    )
    if run.features is not None:
        check_features(run.features)
    elif run.features_size is not None:
        raise UserError("--features-size is the input of a network: name that with --features")
    if run.eval_every == 0 and (run.keep_best, run.score) != (defaults.keep_best, defaults.score):
        log.warning("--eval-every 0: nothing is scored, so that no checkpoint is the best by --score")


def suggest_smaller_sizes(config: TrainConfig, device: torch.device) -> None:
    """Logs smaller sizes where those of the paper would train on a CPU."""
    if device.type == "cpu" and config.model.ngf * config.data.crop_size >= PAPER_NGF * PAPER_SIDE:
        log.info("on a CPU a step of these sizes takes seconds; these are hundreds of times less work: %s", SMALL_SIZES)
