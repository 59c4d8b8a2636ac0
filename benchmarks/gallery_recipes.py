"""The recipes that docs/gallery.md shows: their stand-ins, their commands, and what is to be seen in their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclegan_fast.metrics import OPPOSITE, Direction

DATA, RUNS, TRANSLATED = Path("data/gallery"), Path("runs/gallery"), Path("runs/gallery/translated")
SIZE = 64  # pixels
SETTINGS = (
    "--generator resnet_3blocks --ngf 16 --ndf 32 --discriminator n_layers --n-layers 2 --preprocess resize_and_crop "
    f"--load-size {SIZE} --crop-size {SIZE} --lr 4e-4 --n-epochs 3 --n-epochs-decay 3"
)


@dataclass(frozen=True)
class Recipe:
    """A use of the paper, and the scenes that stand in for its images."""

    name: str
    """Of the scenes' kind."""
    title: str
    config: str
    domains: tuple[str, str]
    seen: str
    """What to see in the images, for the page."""
    flags: str = ""
    """What the stand-in needs besides the recipe's and `SETTINGS`."""
    objects: tuple[str, ...] = ()
    """The classes that should change, where the rest should stay."""

    @property
    def render(self) -> str:
        """The command that renders the scenes."""
        return (
            f"python -m cyclegan_fast.dataset scenes --kind {self.name} --out {DATA / self.name} "
            f"--size {SIZE} --train 300 --test 50"
        )

    @property
    def train(self) -> str:
        """The command that trains."""
        words = f"--config configs/{self.config}.yaml --data {DATA / self.name} --out {RUNS / self.name}"
        return f"python -m cyclegan_fast.train {words} {SETTINGS} {self.flags}".rstrip()

    @property
    def translations(self) -> list[str]:
        """The commands that translate the test images of both domains, and the results back."""
        commands = []
        for direction, opposite in OPPOSITE.items():
            source, there, back = DATA / self.name / f"test{direction[0]}", *folders(self.name, direction)
            commands += [translate(self.name, direction, source, there), translate(self.name, opposite, there, back)]
        return commands


def translate(run: str, direction: Direction, source: Path, output: Path) -> str:
    """The command that translates a folder by a run."""
    words = f"--engine {RUNS / run} --direction {direction} --input {source} --output {output}"
    return f"python -m cyclegan_fast.translate {words}"


def folders(name: str, direction: Direction) -> tuple[Path, Path]:
    """Where translations go, and what they become when they are translated back."""
    return TRANSLATED / name / direction, TRANSLATED / name / f"{direction}to{direction[0]}"


RECIPES = (
    Recipe(
        *("style", "Collection style transfer", "style", ("painting", "photo")),
        """The painter's palette is learned in both directions: violet hills, a violet road, lights in yellow. Strokes
        come and go, too, but not where the true ones are, which nobody could know; so the mean colours of squares
        say more than single pixels. At this size and length edges stay soft, and small things, such as houses, get
        noise.""",
    ),
    Recipe(
        *("transfiguration", "Object transfiguration", "transfiguration", ("plain houses", "striped houses")),
        """Houses get stripes and lose them, in the right places. But the stripes are smeared, with green and violet
        among them, and what has lost its stripes is spotted. The stripes begin elsewhere than the true ones, so
        single pixels of a house are as far from the truth as before, and its mean colour is not; without stripes,
        pixels come closer, too. What should stay is not as it was: its distance to the truth is twenty times that of
        the untranslated image. In the striped images the shores of lakes are hatched, and a row of dark dots runs
        along the lower edge; in both directions the road loses its dashes, and trees and hills their outlines. The
        two domains differ in few pixels, and the small network draws all of them anew. With `--lambda-identity 0`, as
        in the paper, a run on scenes like these went wrong: after 800 steps trees had the stripes, and houses had
        become trees. A cycle allows kinds to change places; the identity loss shows the generator trees that are to
        stay trees.""",
        flags="--lambda-identity 0.5",
        objects=("house",),
    ),
    Recipe(
        *("seasons", "Season transfer", "seasons", ("summer", "winter")),
        """Each material finds its other one: grass and snow, lake and ice, green trees and grey ones, blue sky and
        pale sky, and red roofs come back from white ones. Three quarters of the difference between the two are gone.
        What winter hardly shows is lost in part, such as the outline of hills in snow, and with it their outline in the
        summer made of it; the dashes of the road and the windows of houses are smeared.""",
    ),
    Recipe(
        *("enhancement", "Photo enhancement", "enhancement", ("phone", "camera")),
        """Noise and grey go, colours come, and hills and sky are put out of focus, while trees in front keep their
        edges. The network is small for that: houses and the near road get coloured speckles that neither domain has.
        The other way round it adds noise, drawn into its pattern rather than at random, and sharpens hills it cannot
        have seen; what it draws there is invented.""",
    ),
    Recipe(
        *("geometry", "Another geometry", "transfiguration", ("houses", "trees")),
        """The paper had little success where shapes must change, such as dogs into cats (section 6). Here it goes half
        way: houses become trees and trees houses, in the right places and colours; perhaps since most of them are
        smaller than the 34 pixels that the discriminator sees at once, which were not varied. But many keep the outline
        of what they were: the wide house by the lake becomes a wide bush where a tall fir should stand. And what should
        have stayed is worse than it was, so that on the whole the images are farther from the truth.""",
        objects=("house",),
    ),
)


UNFAMILIAR = "unfamiliar"  # name of an image
UNFAMILIAR_SEEN = """The run of striped houses has seen summer alone. Given winter, it does not leave the image as it
    is: snow becomes sky and water, the road a hedge, and of the houses little is left. The paper
    shows the same of a horse with a rider, since no rider was in its training set (section 6).
    Nothing in one image tells; beside the translations of images that are like those of training it
    does: `--faithfulness` flagged {flagged} of these {images}."""


def unfamiliar_command() -> str:
    """The command that translates winter scenes by the run that saw summer alone, and measures faithfulness."""
    there, _ = folders(UNFAMILIAR, "AtoB")
    command = translate("transfiguration", "AtoB", DATA / "seasons" / "testB", there)
    return f"{command} --faithfulness --faithfulness-reference {DATA / 'transfiguration' / 'testA'}"
