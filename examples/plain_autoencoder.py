"""A plain autoencoder beside a VAE: it reconstructs better, and what it makes of draws from N(0, I) is no digit.

The codes of ``ae-mnist`` came with a mixture that was fitted to them afterwards, by which it draws well. Here it is
given N(0, I) instead, as a VAE has it, and compared with other models: a page to print, ``compared/index.html``.

    python examples/plain_autoencoder.py [--examples 2000] [--output compared] [MODEL ...]
"""

from argparse import ArgumentParser
from pathlib import Path

from zoo_core import GenerativeModel, build, describe, from_pretrained
from zoo_core.comparison import compare, write_page
from zoo_core.data import load

MODELS = ("gmm-mnist", "ppca-mnist", "ae-mnist", "vae-mnist", "beta-vae-mnist", "iwae-mnist", "vqvae-mnist")


def with_standard_normal(name: str) -> GenerativeModel:
    """The autoencoder of that name with p(z) = N(0, I)."""
    fitted = from_pretrained(name)
    model: GenerativeModel = build(
        {**describe(fitted), "prior": "nets/standard_normal"}, "model", data_shape=fitted.data_shape
    )
    weights = {key: w for key, w in fitted.state_dict().items() if not key.startswith("prior.")}
    model.load_state_dict({**model.state_dict(), **weights})
    model.preprocessing = fitted.preprocessing
    return model


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("compared"))
    arguments = parser.parse_args()
    models = {"plain-ae-mnist": with_standard_normal("ae-mnist")}
    models |= {name: from_pretrained(name) for name in arguments.models}
    data = load("ylecun/mnist", "test")
    compared = compare(models, data, examples=arguments.examples, folder=arguments.output)
    for entry in compared.entries:
        values = {name: round(m["value"], 4) for name, m in entry.values.items() if name.startswith(("fd", "mse"))}
        print(entry.name, values)
    print(write_page(compared, arguments.output, command="python examples/plain_autoencoder.py"))


if __name__ == "__main__":
    main()
