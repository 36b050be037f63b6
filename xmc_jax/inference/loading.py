"""Loads a trained model from the folder of a run or of an exported model.

    model = xmc_jax.load("runs/one_shape_32")  # Or "hf://USER/NAME".
    images = model.generate(["a large red star on a white background"], seed=0)

An exported model with a program is read without the libraries that built it.
"""

import jax
from etils import epath

from xmc_jax import demo
from xmc_jax.console import notice
from xmc_jax.errors import UserError
from xmc_jax.inference import exported, hub
from xmc_jax.inference.program import ProgramError, ProgramModel, has_program
from xmc_jax.parallel import startup


def load(
    folder: epath.PathLike,
    *,
    step: int | None = None,
    batch_size: int = 16,
    text_encoder: str | None = None,
):
    """Loads a model from the folder of a run or of an exported model.

    Args:
      folder: The folder, local or remote (``gs://…``), or the address of an exported model on the
        Hugging Face Hub, ``hf://USER/NAME[@REVISION]``; see `hub.local_folder`.
      step: Which checkpoint of a run; None for the newest.
      batch_size: Largest number of captions in one call of a device program; it changes only speed
        and memory.
      text_encoder: Name or folder on this machine of the text encoder that the model was trained
        with, if the one in the config does not exist here; see `load_text_encoder`.

    Returns:
      A `model.TrainedModel`, or a `program.ProgramModel`, which generates the same images.

    Raises:
      UserError: the folder holds no model or no such checkpoint, a file is damaged, or the text
        encoder is missing or not the one that the model was trained with.
    """
    folder = epath.Path(hub.local_folder(folder)).expanduser()

    def load_networks():
        from xmc_jax.inference import model  # Loads Keras and Orbax.

        return model.load_networks(
            folder, step=step, batch_size=batch_size, text_encoder=text_encoder
        )

    startup.hide_missing_tpu()  # In a notebook no verb has called it.
    if exported.find_model(folder):
        manifest = exported.read_manifest(folder)
        if step not in (None, manifest["step"]):
            raise UserError(
                f"{folder} is an exported model of step {manifest['step']}; it has no step {step}"
            )
        # The program knows one device, and one text encoder.
        if text_encoder is None and jax.device_count() == 1 and has_program(manifest):
            try:
                return ProgramModel(
                    folder, manifest, batch_size=batch_size, load_networks=load_networks
                )
            except ProgramError as error:
                notice(
                    f"this version of JAX does not run the program in {folder} ({error}); building "
                    "the model from its config, which takes longer; export it again"
                )

    return load_networks()


def load_demo(name: str = demo.DEFAULT):
    """Loads a model that comes with the package, see `load`.

    Raises:
      UserError: see `demo.demo_folder`.
    """
    return load(demo.demo_folder(name))
