"""tensorboard.py: what TensorBoard finds in the events of a run, read back with its own reader."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from xmc_jax.configs import shapes_32
from xmc_jax.training import tensorboard

CAPTIONS = ["a red circle", "a | b", "two\nlines"]


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return events, {
        tag: [event.tensor_proto for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_events_describe_the_run(tmp_path):
    config = shapes_32.get_config()
    with tensorboard.open_writer(str(tmp_path), config, CAPTIONS, 2) as writer:
        writer.write_scalars(3, {"d/loss": 1.5, "steps_per_second": 2.0})
        writer.write_image(3, "samples", np.zeros((4, 4, 3), np.uint8))

    events, tensors = read(tmp_path)
    assert {"d/loss", "steps_per_second", "samples", "captions", "config"} <= tensors.keys()
    assert make_ndarray(tensors["d/loss"][0]) == np.float32(1.5)
    assert tensors["samples"][0].string_val[2].startswith(b"\x89PNG")
    plugins = events.summary_metadata
    assert plugins["captions"].plugin_data.plugin_name == "text"
    assert plugins["samples"].plugin_data.plugin_name == "images"
    table = tensors["captions"][0].string_val[0].decode().splitlines()
    assert table[2:] == ["| a red circle | a \\| b |", "| two lines |"]
    assert '"resolution": 32' in tensors["config"][0].string_val[0].decode()

    (tag,) = (tag for tag in plugins if plugins[tag].plugin_data.plugin_name == "hparams")
    data = plugin_data_pb2.HParamsPluginData.FromString(plugins[tag].plugin_data.content)
    fields = data.session_start_info.hparams
    assert fields["model.resolution"].number_value == 32
    assert fields["data.name"].string_value == "shapes"
    assert fields["seed"].number_value == 0
