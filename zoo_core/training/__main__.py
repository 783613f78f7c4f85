"""``accelerate launch -m zoo_core.training RECIPE``: what ``zoo train`` runs, in each process."""

from zoo_core.cli.training import train_alone

if __name__ == "__main__":
    train_alone()
