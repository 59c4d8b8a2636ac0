"""python -m cyclegan_fast: lists the commands."""

from __future__ import annotations

COMMANDS = {
    "train": "train a CycleGAN on two folders of images",
    "translate": "translate an image, or a folder of them",
    "export": "turn a checkpoint into an engine or a file of weights",
    "model_card": "publish a trained model: a folder with weights, samples, scores and a model card",
    "evaluate": "score a checkpoint on synthetic scenes with known truth",
    "dataset": "render synthetic scenes, or check a folder of images",
    "demo": "the whole way in one command, with a report",
    "doctor": "what is here, what is missing, and how to get it",
}

if __name__ == "__main__":
    print("Commands, each with --help:\n")
    for name, text in COMMANDS.items():
        print(f"  python -m cyclegan_fast.{name:<10} {text}")
