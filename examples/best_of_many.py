"""How much it helps to draw many pictures of a sentence and to keep the one that a scorer likes best.

    $ python examples/best_of_many.py --sentences 1000 --candidates 8

Sentences are those of the data set shapes, split test; a picture is right if it shows all that its sentence says.
"""

import argparse

import torch
from zoo_metrics.shape_attributes import caption_holds

from zoo_core import from_pretrained
from zoo_core.data import load


def main(sentences: int, candidates: int) -> None:
    dalle, scorer = from_pretrained("dalle-shapes"), from_pretrained("scorer-shapes")
    captions = load("shapes", "test").batch(torch.arange(sentences))["caption"]
    first = dalle.generate(captions, batch=256)
    best = dalle.generate(captions, batch=256, scorer=scorer.score, candidates=candidates)
    for name, pictures in (("the first", first), (f"the best of {candidates}", best)):
        print(f"{name:16} {caption_holds(pictures, captions).double().mean():.1%} right in full")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=8)
    main(**vars(parser.parse_args()))
