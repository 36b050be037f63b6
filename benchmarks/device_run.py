"""Trains on shapes where only JAX, flax, optax and NumPy are installed: for a lent accelerator.

    python -m benchmarks.device_pack --config=configs/shapes_64.py --pack=pack.npz       # at home
    python -m benchmarks.device_run --pack=pack.npz --out=state --minutes=9              # there
    python -m benchmarks.device_run --pack=pack.npz --out=state --minutes=9 --state=state
    python -m benchmarks.device_pack --pack=pack.npz --state=state --workdir=runs/shapes_64

Draws the scenes, encodes every caption once, keeps both on the device, and takes the library's own
training step, many steps in one program, so that no launch is waited for. Prints images per second,
and the accuracy on captions of val by the analytic reader. Writes the state in files below 15 MB,
from which it goes on another time. `device_pack` makes the folder of a run of them.
"""

import concurrent.futures
import functools
import json
import pathlib
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from xmc_jax import images
from xmc_jax.frozen import whitening
from xmc_jax.models.augmentation import Augmentation
from xmc_jax.models.discriminator import Discriminator
from xmc_jax.models.generator import Generator
from xmc_jax.objectives import LossWeights
from xmc_jax.parallel import startup
from xmc_jax.shapes.accuracy import count_claims, summarise
from xmc_jax.shapes.captions import make_example
from xmc_jax.shapes.forms import parse_form
from xmc_jax.shapes.parser import make_parser
from xmc_jax.shapes.scenes import render
from xmc_jax.train_state import create_train_state, make_optimizer, make_rate_factor
from xmc_jax.train_step import FrozenParams, make_train_step
from xmc_jax.types import Batch

PACK = flags.DEFINE_string("pack", None, "The file that device_pack writes.", required=True)
OUT = flags.DEFINE_string("out", "state", "Folder for the state.")
STATE = flags.DEFINE_string("state", None, "Folder of a state to go on from.")
MINUTES = flags.DEFINE_float("minutes", 9.0, "Of training, without the set-up.")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 40_000, "Training scenes.", lower_bound=1)
NUM_MEASURED = flags.DEFINE_integer("num_measured", 1000, "Captions of val that are measured.")
STEPS_A_PROGRAM = flags.DEFINE_integer("steps_a_program", 200, "Steps without a launch between.")

NUM_CAPTIONS = 5  # Of an example.
TEXT_BATCH = 256  # Captions encoded at once.
NUM_FITTED = 1024  # Captions that the projection is computed from.
FILE_BYTES = 15_000_000


def read_pack(path):
    """``(about, arrays)``: settings as `device_pack` wrote them, and the encoder's arrays."""
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
        leaves = [file[f"leaf_{i}"].astype(kind) for i, kind in enumerate(about["types"])]
        return about, leaves, file["program"].tobytes()


def tokenize(texts, about):
    """Token ids by the pieces of words: as the tokenizer's, for words that the pack knows."""
    start, end = about["ends"]
    tokens = np.zeros((len(texts), about["config"]["text"]["num_tokens"]), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        pieces = [p for word in text.replace(",", " ,").split() for p in about["words"][word]]
        pieces = [start, *pieces[: len(row) - 2], end]
        row[: len(pieces)] = pieces
    return tokens


def draw(index, split, form):
    """Pixels, captions and their logical forms of an example."""
    example = make_example(split, index, form.layout)
    pixels = render(example.scene, form.resolution, form.layout)
    return pixels, [c.text for c in example.captions], [c.form for c in example.captions]


def draw_split(split, count, form, pool):
    drawn = pool.map(functools.partial(draw, split=split, form=form), range(count), chunksize=100)
    pixels, texts, forms = zip(*drawn, strict=True)
    return np.stack(pixels), texts, forms


def encode_captions(texts, about, leaves, program):
    """``(words, sentence, mask)`` of each text, projected if the config says so; on the device."""
    encode = jax.jit(jax.export.deserialize(bytearray(program)).call)
    tokens = tokenize(texts, about)
    parts = []
    for start in range(0, len(tokens), TEXT_BATCH):
        rows = tokens[start : start + TEXT_BATCH]
        padded = np.pad(rows, ((0, TEXT_BATCH - len(rows)), (0, 0)))
        parts.append([x[: len(rows)] for x in encode(leaves, padded)])
        if start < NUM_FITTED <= start + TEXT_BATCH or len(tokens) <= start + TEXT_BATCH:
            fitted = [np.concatenate(x) for x in zip(*parts, strict=True)]
    projection = None
    if width := about["config"]["text"]["projection"]:
        projection = whitening.fit(*(x[:NUM_FITTED] for x in fitted), width)
        apply = jax.jit(whitening.apply)
        parts = [apply(projection, part) for part in parts]
    return tuple(jnp.concatenate(x) for x in zip(*parts, strict=True)), projection


def make_players(config):
    """Networks and optimizers of a config."""
    model, section = config.model, config.optimizer
    dtype = jnp.dtype(model.dtype)
    make = functools.partial(make_optimizer, section.name, beta1=section.beta1, beta2=section.beta2)
    generator = Generator(
        resolution=model.resolution,
        width=model.generator_width,
        z_dim=model.z_dim,
        modulation=model.modulation,
        first_layer=model.first_layer,
        sentence_scale=model.sentence_scale,
        bn_group_size=model.bn_group_size,
        dtype=dtype,
    )
    discriminator = Discriminator(
        resolution=model.resolution,
        width=model.discriminator_width,
        region_resolution=model.region_resolution,
        contrastive_head=model.contrastive_head,
        dtype=dtype,
    )
    return {
        "generator": generator,
        "discriminator": discriminator,
        "generator_tx": make(section.generator_learning_rate),
        "discriminator_tx": make(section.discriminator_learning_rate),
    }


def make_program(config, players, num_examples):
    """``(state, pixels, rows, table, rng) -> (state, metrics)`` of many steps."""
    if config.loss.image_pretrained_weight:
        raise SystemExit("loss.image_pretrained_weight must be 0 here")
    noise = config.loss.instance_noise
    step = make_train_step(
        **players,
        encode_text=lambda table, rows: tuple(x[rows[:, 0]] for x in table),
        loss_weights=LossWeights(
            config.loss.sentence_weight,
            config.loss.word_weight,
            config.loss.image_d_weight,
            variety=config.loss.variety_weight,
        ),
        variety_candidates=config.loss.variety_candidates,
        r1_weight=config.loss.r1_weight,
        r1_every_steps=config.loss.r1_every_steps,
        clip_norm=config.optimizer.clip_norm,
        augmentation=Augmentation(**vars(config.augment)),
        ema_decay=config.optimizer.ema_decay,
        flip=config.data.flip,
        contrastive_group_size=config.loss.contrastive_group_size,
        accumulation_steps=config.accumulation_steps,
        remat=config.remat,
        rate_factor=make_rate_factor(
            config.num_steps, config.optimizer.warmup_until, config.optimizer.decay_from
        ),
        instance_noise=optax.linear_schedule(noise, 0.0, config.num_steps) if noise else None,
    )
    shape = config.d_steps, config.batch_size
    longest_until = round(config.data.longest_caption_until * config.num_steps)

    def one(state, pixels, rows, table, rng):
        keys = jax.random.split(jax.random.fold_in(rng, state.step))
        chosen = jax.random.randint(keys[0], shape, 0, num_examples)
        caption = jax.random.randint(keys[1], shape, 0, NUM_CAPTIONS)
        caption = jnp.where(state.step < longest_until, 0, caption)  # Longer captions come first.
        batch = Batch(pixels[chosen], rows[chosen, caption][..., None])
        return step(state, batch, FrozenParams(table), rng)

    @functools.partial(jax.jit, donate_argnums=0)
    def many(state, *rest):
        return jax.lax.scan(lambda s, _: one(s, *rest), state, length=STEPS_A_PROGRAM.value)

    return many


def save_state(folder, state, projection):
    """Writes all arrays into files of at most `FILE_BYTES`, in the order of their leaves."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = np.concatenate(
        [np.asarray(x, np.float32).ravel() for x in jax.tree.leaves((state, projection))]
    )
    parts = np.split(flat, range(FILE_BYTES // 4, flat.size, FILE_BYTES // 4))
    for index, part in enumerate(parts):
        np.save(folder / f"state_{index:02d}.npy", part)


def load_state(folder, state, projection):
    """The arrays of `save_state`, in the shapes and types of a state and a projection."""
    parts = sorted(pathlib.Path(folder).glob("state_*.npy"))
    flat, leaves = np.concatenate([np.load(part) for part in parts]), []
    wanted, structure = jax.tree.flatten((state, projection))
    for x in wanted:
        leaves.append(flat[: x.size].reshape(x.shape).astype(x.dtype))
        flat = flat[x.size :]
    return jax.tree.unflatten(structure, leaves)


def measure(config, form, players, state, table, rows, forms, pool):
    """Accuracy of all captions' claims in images of one caption of each example."""
    generator = players["generator"]
    chosen = rows[np.arange(len(rows)), np.arange(len(rows)) % NUM_CAPTIONS]

    @jax.jit
    def generate(ema, text, z):
        return images.to_uint8(generator.apply(ema, z, *text, train=False))

    pixels, size = [], 100
    for start in range(0, len(chosen), size):
        text = tuple(x[chosen[start : start + size]] for x in table)
        z = jax.random.normal(jax.random.key(start), (len(text[1]), config.model.z_dim))
        pixels.append(np.asarray(generate(state.ema, text, z)))
    parts = np.array_split(np.concatenate(pixels), max(1, len(chosen) // 50))
    scenes = [s for found in pool.map(functools.partial(read, form), parts) for s in found]
    stated = [(f[i % NUM_CAPTIONS],) for i, f in enumerate(forms)]
    return {k: round(v.value, 3) for k, v in summarise(count_claims(scenes, stated)).items()}


def read(form, pixels):
    return make_parser(form.resolution, form.layout)(pixels)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    startup.hide_missing_tpu()
    about, leaves, program = read_pack(PACK.value)
    config = json.loads(json.dumps(about["config"]), object_hook=lambda x: SimpleNamespace(**x))
    form, start = parse_form(config.data.form), time.monotonic()
    with concurrent.futures.ProcessPoolExecutor() as pool:
        pixels, texts, _ = draw_split("train", NUM_EXAMPLES.value, form, pool)
        texts = [sorted(x, key=lambda text: len(text.split()), reverse=True) for x in texts]
        _, val_texts, val_forms = draw_split("val", NUM_MEASURED.value, form, pool)
        known = {t: None for several in (*texts, *val_texts) for t in several}
        known = {text: row for row, text in enumerate(known)}
        rows, val_rows = (
            np.array([[known[t] for t in several] for several in x]) for x in (texts, val_texts)
        )
        print(f"{len(known)} captions; scenes drawn after {time.monotonic() - start:.0f} s")
        table, projection = encode_captions(list(known), about, leaves, program)
        players = make_players(config)
        create = functools.partial(create_train_state, **players, text_width=table[1].shape[-1])
        state = jax.jit(create)(jax.random.key(config.seed))
        if STATE.value:
            state, _ = load_state(STATE.value, state, projection)
            state = jax.tree.map(jnp.asarray, state)
        many = make_program(config, players, len(pixels))
        rest = jax.device_put((pixels, rows, table, jax.random.key(config.seed + 1)))
        many = many.lower(state, *rest).compile()
        print(f"compiled after {time.monotonic() - start:.0f} s", flush=True)
        start, first = time.monotonic(), int(state.step)
        check = functools.partial(measure, config, form, players)
        while int(state.step) < config.num_steps:
            state, metrics = many(state, *rest)
            jax.block_until_ready(state.step)
            seconds, step = time.monotonic() - start, int(state.step)
            seen = step * config.batch_size * config.d_steps
            speed = (step - first) * config.batch_size * config.d_steps / seconds
            means = {k: round(float(v.mean()), 3) for k, v in metrics.items() if "accuracy" in k}
            print(f"step {step}  {seen / 1e6:.2f} M images  {speed:.0f}/s  {means}", flush=True)
            if seconds > 60 * MINUTES.value:
                break
        print(check(state, table, val_rows, val_forms, pool), flush=True)
        save_state(OUT.value, jax.device_get(state), projection)


if __name__ == "__main__":
    app.run(main)
