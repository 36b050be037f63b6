"""The models that come with the package: exported models, a folder each (`inference.exported`)."""

from etils import epath

from xmc_jax.errors import UserError

# How to make them, and what `--demo` alone means: the first.
COMMANDS = {
    "shapes": "--workdir=runs/one_shape_32 --dtype=float16 --nostandalone",
    "scenes": "--workdir=runs/sq32 --dtype=float16 --nostandalone",
    "emoji": "--workdir=runs/emoji_64 --dtype=float16 --nostandalone",
}
DEFAULT = "shapes"


def demo_folder(name: str = DEFAULT) -> epath.Path:
    """The folder of a model that comes with the package.

    Raises:
      UserError: there is no model of this name, or the package was installed without it.
    """
    if name not in COMMANDS:
        raise UserError(f"no demo {name!r}; there are {', '.join(COMMANDS)}")
    folder = epath.Path(__file__).parent / name
    if not (folder / "model.json").exists():
        command = f"python -m xmc_jax.export {COMMANDS[name]} --out={folder}"
        raise UserError(f"there is no demo model in {folder}; export a run there: {command}")
    return folder
