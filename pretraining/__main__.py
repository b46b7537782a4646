"""``python -m pretraining --output FILE --minutes 75 --seed 0``: pretrain ``sam_nano`` from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pretraining.train import Recipe, measure_steps, run


def main() -> None:
    """Read the options, settle the number of steps, and train."""
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="weights to write (.safetensors); log beside it")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=75, help="train for about as long, on this machine")
    length.add_argument("--steps", type=int, help="train for so many steps: what makes a run repeatable")
    parser.add_argument("--stop-at", type=int, help="end after so many of the steps, the learning rate not yet zero")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and prompts")
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size, help="images a step")
    parser.add_argument("--boxes", type=int, default=Recipe.boxes, help="box prompts an image")
    parser.add_argument("--tight", type=float, default=Recipe.tight, help="share of the boxes that are exact")
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="highest learning rate")
    parser.add_argument(
        "--reading", type=float, default=Recipe.reading, help="weight of the error of reading the embedding"
    )
    parser.add_argument("--average", type=float, default=Recipe.average, help="decay of the mean of the weights")
    parser.add_argument("--start-from", type=Path, help="weights of an earlier run to continue from, on a new schedule")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw images meanwhile")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda where there is one")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the state beside the output; needs --steps"
    )
    options = parser.parse_args()
    if options.resume and options.steps is None:
        parser.error("--resume needs --steps, the number that the interrupted run printed at its start")
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        seed=options.seed,
        batch_size=options.batch_size,
        boxes=options.boxes,
        tight=options.tight,
        rate=options.rate,
        reading=options.reading,
        average=options.average,
    )
    steps = options.steps or measure_steps(recipe, options.minutes, options.device)
    print(f"{steps} steps of {recipe}", flush=True)
    run(
        options.output,
        recipe,
        steps,
        resume=options.resume,
        device=options.device,
        stop_at=options.stop_at,
        start_from=options.start_from,
        workers=options.workers,
        show=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    main()
