"""A data folder with every flaw that the check knows, made of real files."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.sample_images import png_header


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Smooth shapes with some grain, full of light and shade, as a camera gives them."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    grainy = np.asarray(shapes) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(grainy.clip(0, 255).astype(np.uint8))


def scratch(path: Path, start: float = 0.6, length: int = 400) -> None:
    """Overwrites some bytes in the middle of a file."""
    content, at = path.read_bytes(), int(path.stat().st_size * start)
    path.write_bytes(content[:at] + bytes(length) + content[at + length :])


def make_flawed(folder: Path) -> Path:
    """Writes the folder; file names tell the flaw. Sound images are 0.jpg to 9.jpg of each domain."""
    for seed, name in enumerate(("trainA", "trainB", "testA", "testB")):
        (folder / name).mkdir(parents=True)
        for i in range(10 if name.startswith("train") else 4):
            photo(300 + 4 * (i % 3), 280, seed=1000 + 100 * seed + i).save(folder / name / f"{i}.jpg", quality=92)
    a, b, test = folder / "trainA", folder / "trainB", folder / "testA"

    (a / "empty.jpg").touch()
    (a / "text.jpg").write_text("this is no image\n")
    (a / "bomb.png").write_bytes(png_header(30_000, 30_000))
    photo(300, 280, 1).save(a / "cut.jpg")
    (a / "cut.jpg").write_bytes((a / "cut.jpg").read_bytes()[:9000])
    photo(300, 280, 2).save(b / "scratched.jpg", quality=92)
    scratch(b / "scratched.jpg")
    photo(30, 20, 3).save(b / "tiny.png")

    (a / "again.jpg").write_bytes((a / "3.jpg").read_bytes())  # the same file
    Image.open(a / "4.jpg").save(a / "pixels.png")  # the same pixels
    (b / "stray.jpg").write_bytes((a / "5.jpg").read_bytes())  # in A and in B
    (test / "leak.jpg").write_bytes((a / "6.jpg").read_bytes())  # in train and in test
    Image.open(a / "7.jpg").resize((450, 420)).save(b / "near.webp", quality=60)  # looks like A's
    Image.new("RGB", (300, 280), "navy").save(a / "constant.png")
    frames = [photo(300, 280, seed) for seed in (20, 21)]
    frames[0].save(b / "moving.gif", save_all=True, append_images=frames[1:])

    exif = Image.Exif()
    exif[0x0112] = 6
    photo(300, 280, 30).save(a / "turned.jpg", exif=exif)
    photo(300, 280, 31).save(a / "named.jpg", format="PNG")
    photo(100, 90, 32).save(b / "small.jpg", quality=92)

    grey = np.linspace(0, 65535, 300 * 280).reshape(280, 300).astype(np.uint16)
    Image.fromarray(grey).save(a / "deep.png")
    photo(300, 280, 33).convert("CMYK").save(a / "print.jpg", quality=92)
    return folder
