"""What it costs to start: listing, importing, and a picture out of from_pretrained, as whole processes."""

import sys
from pathlib import Path

from rounds import race, tell

PYTHON = sys.executable
ZOO = str(Path(PYTHON).with_name("zoo"))
SAMPLE = "from zoo_core import from_pretrained; from_pretrained('vae-mnist').sample(16)"

tell(
    "start-up, against import torch",
    race(
        {
            "import torch": [PYTHON, "-c", "import torch"],
            "import zoo_core": [PYTHON, "-c", "import zoo_core"],
            "zoo list": [ZOO, "list"],
            "zoo plugins": [ZOO, "plugins"],
            "zoo --help": [ZOO, "--help"],
            "from_pretrained('vae-mnist') + 16 samples": [PYTHON, "-c", SAMPLE],
            "from transformers import AutoModel": [PYTHON, "-c", "from transformers import AutoModel"],
            "from diffusers import AutoencoderKL": [PYTHON, "-c", "from diffusers import AutoencoderKL"],
        }
    ),
    reference="import torch",
)
