"""Writes dinov2_seeded.npz: features of the original DINOv2 with seeded weights.

Run once in a throw-away environment that holds torch, Pillow and dinov2 0.0.1.dev2, the authors'
own package (installed with --no-deps):

    python tests/golden/make_dinov2.py
"""

import pathlib
import zlib

import numpy as np
from PIL import Image

SIDES, SIDE = (64, 300), 224  # Pixels of the images, and of those that the network is given.
PLACES, WIDTH, HEADS, DEPTH, PATCH = 37, 32, 2, 2, 14  # Of the small network.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def shapes() -> dict[str, tuple[int, ...]]:
    """Every array of the original's state, by name."""
    found = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + PLACES**2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    layers |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    layers |= {"norm1": (WIDTH,), "norm2": (WIDTH,)}
    for i in range(DEPTH):
        for name, shape in layers.items():
            found[f"blocks.{i}.{name}.weight"] = shape
            found[f"blocks.{i}.{name}.bias"] = shape[:1]
        found |= {f"blocks.{i}.ls{j}.gamma": (WIDTH,) for j in (1, 2)}
    return found


def seeded_state() -> dict[str, np.ndarray]:
    """Random weights; the tests use the same."""
    state = {}
    for name, shape in shapes().items():
        x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) == 1 and not name.endswith("bias"):  # Scales of layers.
            x = 1 + 0.2 * x
        elif name.endswith("weight"):
            x /= np.sqrt(np.prod(shape[1:]))
        elif name == "pos_embed":
            x *= 0.2
        state[name] = x.astype(np.float32)
    return state


def images(side: int) -> np.ndarray:
    """Three images: noise, smooth shades, and stripes with sharp edges."""
    rng = np.random.default_rng(side)
    noise = rng.integers(0, 256, (side, side, 3), np.uint8)
    shades = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    stripes = np.where(np.arange(side) % 7 < 3, 255, 0).astype(np.uint8)
    stripes = np.broadcast_to(stripes[:, None, None], (side, side, 3))
    return np.stack([noise, np.asarray(shades.resize((side, side), Image.BILINEAR)), stripes])


def main() -> None:
    """Writes features of images as dgm-eval prepares them, computed in float64."""
    import torch
    from dinov2.models.vision_transformer import DinoVisionTransformer

    model = DinoVisionTransformer(
        img_size=PLACES * PATCH,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        init_values=1.0,
        block_chunks=0,
    )
    state = {name: torch.from_numpy(x) for name, x in seeded_state().items()}
    model.load_state_dict(state, strict=True)
    model = model.double().eval()
    found = {}
    for side in SIDES:
        # torchvision's Resize gives images of Pillow to Pillow.
        resized = [Image.fromarray(x).resize((SIDE, SIDE), Image.BICUBIC) for x in images(side)]
        scaled = (np.stack([np.asarray(x) for x in resized]) / 255 - MEAN) / STD
        with torch.no_grad():
            found[str(side)] = model(torch.from_numpy(scaled).permute(0, 3, 1, 2)).numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("dinov2_seeded.npz"), **found)


if __name__ == "__main__":
    main()
