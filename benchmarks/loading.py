"""What it costs to load weights from a folder: a network of the same size in the zoo, in diffusers, in bare torch."""

import sys
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from rounds import race, tell
from safetensors.torch import save_file

from zoo_core import build, save_pretrained

HERE = sys.executable, "-c"
BARE = """
import torch
from safetensors.torch import load_file
with torch.device("meta"):
    net = torch.nn.Sequential(*[torch.nn.Linear({width}, {width}) for _ in range({depth})])
net.load_state_dict({{k: v.clone() for k, v in load_file({path!r}).items()}}, assign=True)
"""


def wide_vae(parameters: int) -> torch.nn.Module:
    """A VAE of about that many parameters, nearly all in two square layers of encoder and decoder."""
    width = int((parameters / 2) ** 0.5)
    return build(
        {
            "type": "vae/vae",
            "encoder": {"type": "nets/mlp_encoder", "latents": 16, "hidden": [width, width]},
            "decoder": {"type": "nets/mlp_decoder", "hidden": [width, width]},
            "prior": "nets/standard_normal",
        },
        data_shape=(1, 8, 8),
    )


with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    peer = AutoencoderKL(
        block_out_channels=(128, 256, 384), layers_per_block=2, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    peer.save_pretrained(folder / "diffusers")
    size = sum(p.numel() for p in peer.parameters())
    save_pretrained(wide_vae(size), folder / "zoo")
    width, depth = 1024, round(size / 1024**2)
    bare = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(depth)])
    save_file(bare.state_dict(), folder / "bare.safetensors")
    zoo = f"from zoo_core import from_pretrained; from_pretrained({str(folder / 'zoo')!r})"
    kl = f"from diffusers import AutoencoderKL; AutoencoderKL.from_pretrained({str(folder / 'diffusers')!r})"
    torch_alone = BARE.format(width=width, depth=depth, path=str(folder / "bare.safetensors"))
    tell(
        f"a fresh process to a loaded model of {size / 1e6:.0f} M parameters ({size * 4 / 1e6:.0f} MB)",
        race(
            {
                "bare torch: meta, load_file, assign": [*HERE, torch_alone],
                "zoo: from_pretrained": [*HERE, zoo],
                "diffusers: AutoencoderKL.from_pretrained": [*HERE, kl],
            }
        ),
        reference="bare torch: meta, load_file, assign",
    )
