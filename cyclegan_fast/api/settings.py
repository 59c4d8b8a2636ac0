"""The keywords of `fit` and their types, written by tests/api/generate_settings.py from config.py.

Type checkers and editors read them (PEP 692); nothing here has an effect when a program runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict

from cyclegan_fast.config import Loader, ModelName, Preprocess

__all__ = ["FitSettings"]


class FitSettings(TypedDict, total=False):
    """Every setting of a run, by the name of its flag."""

    model: ModelName
    """cyclegan: two sets of images. pix2pix: pairs, each input with the output to make of it (Isola et al. 2017).
    For experiments, the rivals of the paper's tables: simgan, feature_gan, bigan, cogan."""
    generator: str
    """resnet_<N>blocks or unet_<side>. The paper: 9 blocks at 256 px and up, 6 at 128 px; unet_128, unet_256."""
    discriminator: Literal["basic", "n_layers", "pixel"]
    """Discriminator: basic is the paper's 70x70 PatchGAN (n_layers with 3), pixel scores each pixel by itself."""
    n_layers: int
    """Strided layers of the n_layers discriminator (each about doubles the side of a patch)."""
    ngf: int
    """Generator channels after the first convolution."""
    ndf: int
    """Discriminator channels after the first convolution."""
    norm: Literal["instance", "batch", "none"]
    """Normalisation layer. The paper: instance."""
    dropout: bool
    """Dropout 0.5 inside the generator's blocks. The paper: off."""
    init_type: Literal["normal", "xavier", "kaiming", "orthogonal"]
    """Weight initialisation. The paper: normal."""
    init_gain: float
    """Standard deviation (normal) or gain (others) of the initialisation."""
    channels_A: int
    """Channels of the images of domain A: 1 (grey), 3 (RGB), or as many as its files have."""
    channels_B: int
    """Channels of the images of domain B: 1 (grey), 3 (RGB), or as many as its files have."""
    gan_mode: Literal["lsgan", "vanilla", "wgangp", "hinge"]
    """Adversarial loss: lsgan (the paper's training), vanilla (its equation 1), wgangp, hinge."""
    lambda_gan: float
    """Weight of the adversarial losses of the generators; 0 trains with the cycle losses alone."""
    lambda_A: float
    """Weight of the forward cycle loss, A -> B -> A; 0 leaves it out."""
    lambda_B: float
    """Weight of the backward cycle loss, B -> A -> B; 0 leaves it out."""
    lambda_identity: float
    """Weight of the identity loss, relative to lambda_A and lambda_B; 0 leaves it out."""
    lambda_L1: float
    """With model='pix2pix': weight of the L1 distance to the partner. Isola et al.: 100."""
    lambda_self: float
    """With model='simgan' and feature_gan: weight of the L1 distance between output and input."""
    lambda_gp: float
    """Weight of wgangp's gradient penalty."""
    pool_size: int
    """Size of the image pool of each discriminator; 0 shows it only the newest fakes."""
    batch_size: int
    """Images of each domain that pass the networks together. The paper: 1."""
    grad_accumulation: int
    """Micro-batches of batch_size whose gradients make one update, and so one step. The paper: 1."""
    lr: float
    """Adam's learning rate at the start."""
    lr_rule: bool | Literal["none", "sqrt", "linear"]
    """How lr, then meant for updates of one image, grows with their images: none, by the square root, or linear.
    True means sqrt."""
    beta1: float
    """Adam's decay of the first moment."""
    beta2: float
    """Adam's decay of the second moment."""
    eps: float
    """Adam's epsilon."""
    ema: float
    """Decay of the moving average of the generators' weights, which then translates images; 0 for none. Often 0.999."""
    n_epochs: int
    """Epochs at the full learning rate."""
    n_epochs_decay: int
    """Epochs over which the linear policy then decays the rate to zero."""
    lr_policy: Literal["linear", "step", "plateau", "cosine"]
    """How the rate falls: linear (the paper), step, plateau (on the generators' loss), cosine."""
    lr_decay_iters: int
    """Epochs between the step policy's drops."""
    lr_gamma: float
    """Factor of each drop of the step policy."""
    data: str | PathLike[str] | None
    """Folder with trainA and trainB (and testA, testB); with paired=True also one whose train shows A | B side by
    side.     By default scenes are rendered into out."""
    data_A: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """In the place of data: folders, lists (.txt) or tar shards (a-{000..009}.tar) with the training images of A."""
    data_B: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """The same for B."""
    test_A: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """With data_A: folders, lists or shards with the test images of A, for scores and samples; never trained on."""
    test_B: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    """The same for B."""
    paired: bool
    """A and B are pairs, by their names or side by side in one file: loaded together, cropped and flipped alike.
    CycleGAN does not learn from the partner; model='pix2pix' does, and takes pairs by itself."""
    direction: Literal["AtoB", "BtoA"]
    """BtoA swaps the two domains."""
    preprocess: Preprocess
    """Geometry of a training sample; none only rounds the sides to a multiple of 4."""
    load_size: int
    """Side in pixels to resize to, before the crop."""
    crop_size: int
    """Side in pixels of the random crop."""
    flip: bool
    """Flip left to right with probability 0.5."""
    serial_batches: bool
    """Load A and B in their order, rather than shuffled and combined at random."""
    max_dataset_size: int | None
    """Use at most this many images of each domain."""
    epoch_size: int | None
    """Samples per epoch; by default the size of the larger domain."""
    loader: Loader
    """What makes the batches: cache (all decoded once, held in memory), dali (NVIDIA DALI decodes, on the GPU),
    torch     (worker processes). auto logs its choice."""
    cache_share: float
    """Share of the free memory that the loader cache may use: of the device's, or else of the host's."""
    workers: int | None
    """Processes (torch) or threads (cache, dali) that decode images; by default as many as the cores suggest."""
    depth: Literal["auto", "8", "16", "float"]
    """Bits of a channel: 8, 16, or float with value_low and value_high. auto reads them from the files."""
    value_low: float | None
    """The value of black (-1) in floating-point images; lower ones are clipped."""
    value_high: float | None
    """The value of white (1) in floating-point images; higher ones are clipped."""
    value_low_B: float | None
    """For domain B, where it differs from value_low."""
    value_high_B: float | None
    """For domain B, where it differs from value_high."""
    on_bad_image: Literal["error", "skip"]
    """A file that cannot be decoded: stop before training, or leave it out and list it."""
    out: str | PathLike[str]
    """Folder of the run: checkpoints, events, samples, settings."""
    seed: int
    """Seed of weights, data order, augmentation and image pools."""
    device: str
    """auto, cpu, cuda or cuda:<index>."""
    amp: bool | Literal["off", "bf16", "fp16"]
    """Mixed precision. fp16 (with loss scaling) needs CUDA. True means bf16."""
    cuda_graphs: bool | Literal["off", "on", "auto"]
    """Whole step as one CUDA graph. auto: where there is CUDA (elsewhere it logs why not); on: an error elsewhere.
    True means auto."""
    side_by_side: bool | Literal["auto", "on", "off"]
    """Both cycles at once, on two CUDA streams or CPU threads, for twice the memory. auto: if images are small. True
    means on."""
    channels_last: bool
    """Keep activations and weights channels_last (NHWC), the faster layout."""
    compile: bool
    """torch.compile the networks."""
    activation_checkpointing: bool
    """Store only the input of each residual block and recompute the rest: less memory for a quarter more work."""
    log_every: int
    """Steps between log lines and event records."""
    sample_every: int
    """Steps between grids of sample images; 0 for none."""
    eval_every: int | None
    """Steps between scores of the test images; 0 for none. By default after each epoch, within 5 % of the time."""
    eval_images: int
    """How many test images of each domain are scored."""
    eval_paired: bool
    """Score the test images of A and B as pairs, by their names, where those that are trained on are none."""
    features: str | None
    """A network for FID, KID, density and coverage: inception, or a file: .onnx, .pt2, or TorchScript (.pt)."""
    features_size: int | None
    """Side in pixels of that network's input; by default what its file states, or 224."""
    checkpoint_every: int
    """Steps between checkpoints, besides the one at the end; 0 for none."""
    checkpoint_minutes: float
    """A checkpoint is also saved when the last one is this old, in minutes; 0 for none."""
    keep_checkpoints: int
    """How many of the newest checkpoints to keep; 0 keeps all."""
    keep_every: int
    """Milestones: a checkpoint is saved at each multiple of this many steps, and never deleted; 0 for none."""
    keep_best: int
    """How many of the best checkpoints, by score, are never deleted; better scores are saved as they come."""
    score: str
    """Which score tells the best: swd, color, cycle_l1, cycle_ssim, hidden, structure; swd_AtoB; with paired=True or
    eval_paired=True also l1, psnr, ssim; with features also fid, kid, density, coverage."""
    watch: bool | Literal["on", "off"]
    """Warn of divergence and collapse: a discriminator that won, images that are constant, inverted or all alike.
    True means on."""
    detect_anomaly: bool
    """Look at the losses and gradients of every step, and replay one that is not finite, to name layer and tensor."""
    max_steps: int | None
    """Stop after this many steps, even if epochs are left; none for no limit."""
    resume: bool | Literal["off", "auto"]
    """auto continues the run in out exactly, with its settings; before its first checkpoint it starts again. True
    means auto."""
    rank_timeout: float
    """Of several processes that train together: seconds that one waits for another before it ends."""
    init_from: str | PathLike[str] | None
    """Start from these weights: a checkpoint or run of ours, or the reference's *_net_*.pth, a folder or one file."""
