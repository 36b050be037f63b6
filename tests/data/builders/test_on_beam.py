"""Builds on Apache Beam, with its local runner: the records and report of the process pool."""

import json
import re
import subprocess
import sys

import pytest

from tests import archives
from tests.data.builders.test_ln_open_images import (
    ROOT,
    SPLITS,
    STEMS,
    build,
    name,
    publish,
    read,
    serve_oddities,
)
from xmc_jax.data import catalog
from xmc_jax.data.builders import on_beam
from xmc_jax.data.builders.captioned import Settings
from xmc_jax.errors import UserError


def test_tallies_merge_in_any_order():
    tallies = [({"seen": i, "kept": 1}, [(i, f"loss {i}")]) for i in (5, 3, 8, 1, 9)]
    whole = on_beam._merge(tallies)
    assert whole == ({"seen": 26, "kept": 5}, [(1, "loss 1"), (3, "loss 3"), (5, "loss 5")])
    parts = [on_beam._merge(tallies[3:]), on_beam._merge([]), on_beam._merge(tallies[:3])]
    assert on_beam._merge(parts) == whole


def test_beam_equals_the_pool(server, tmp_path, monkeypatch, capsys):
    manual = publish(tmp_path / "manual", SPLITS, serve_oddities(server))
    folder = manual / "open_images"
    folder.mkdir()
    (folder / f"{name(10)}.jpg").write_bytes(archives.oriented(archives.photograph(), 6))
    (folder / f"{name(21)}.jpg").write_bytes(archives.encode(archives.photograph())[:400])
    monkeypatch.setattr(on_beam, "_GROUPS_PER_FILE", 2)
    settings = {"max_lost": 0.34}
    pool = build(tmp_path / "pool", manual, server, **settings)
    server.log.clear()
    capsys.readouterr()
    on = build(tmp_path / "beam", manual, server, beam_runner="DirectRunner", **settings)
    assert on == pool and on["train"]["kept"] == 4 and on["test"]["undecodable"] == 1
    # The losses are counted and named, as the rule of how much may be lost needs.
    assert re.search(r"lost 2 of 6 .*1 missing, 1 undec.*not an image", capsys.readouterr().err)
    # An image of two narratives comes once; there is no folder of downloads.
    assert sorted(server.asked()) == sorted(name(n) for n in (1, 2, 3, 4, 5, 11, 20))
    for split in STEMS:
        records = read(tmp_path / "beam", split)
        assert records and records == read(tmp_path / "pool", split)
    assert not (tmp_path / "beam" / "downloads" / "open_images").exists()
    built = tmp_path / "beam/ln_open_images/sq128/1.0.0"
    assert not [path for path in built.iterdir() if path.is_dir()]


def test_coco_builds_on_beam_too(tmp_path):
    good = {f"good{i}": archives.encode(archives.photograph(seed=i)) for i in range(3)}
    archives.coco(tmp_path, {"train": archives.GOOD, "val": good})
    reports = []
    for runner in ("", "DirectRunner"):
        builder = catalog.make_builder("coco", form="sq128", data_dir=str(tmp_path / f"d{runner}"))
        folder = catalog.build(builder, Settings(manual_dir=tmp_path, beam_runner=runner))
        source = builder.as_data_source(split="train")
        reports.append(
            ((folder / "build_report.json").read_text(), [x["image/id"] for x in source])
        )
    assert reports[0] == reports[1] and json.loads(reports[0][0])["train"]["gray"] == 1


def test_a_failure_without_words_is_named_by_its_type(tmp_path, monkeypatch):
    class Silent(Exception):
        pass

    def fail(self):
        raise Silent

    builder = catalog.make_builder("coco", data_dir=str(tmp_path))
    monkeypatch.setattr(type(builder), "list_examples", fail)
    with pytest.raises(UserError, match="^the Beam pipeline failed: Silent$"):
        catalog.build(builder, Settings(beam_runner="DirectRunner"))


def test_a_wrong_runner_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no Beam runner 'NoSuchRunner'"):
        on_beam.make_options("NoSuchRunner", [])
    options = on_beam.make_options("DirectRunner", ["direct_num_workers=2", "save_main_session"])
    values = options["beam_options"].get_all_options()
    assert values["direct_num_workers"] == 2 and values["save_main_session"] is True


def test_without_beam_there_is_one_line(tmp_path):
    code = (
        "import sys; sys.modules['apache_beam'] = None\n"
        "from xmc_jax.data import catalog\n"
        "from xmc_jax.errors import UserError\n"
        f"builder = catalog.make_builder('coco', data_dir={str(tmp_path)!r})\n"
        "try: catalog.build(builder, catalog.Settings(beam_runner='DirectRunner'))\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Apache Beam is not installed" in done.stdout and "pip install" in done.stdout
