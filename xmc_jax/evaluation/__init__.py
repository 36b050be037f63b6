"""Measuring a generator: prompts, real and drawn pictures in, records of numbers out.

`families` is the way in. A family of metrics is a module of this package with

* ``names(num_prompts)``: its metrics on a number of prompts, as ``--metrics`` takes them;
* ``reason_unavailable(name, config, prompts)``: why a metric cannot judge a run, or None; before prompts
  are read they are None, and what they decide is left open;
* ``make_measure(experiment, names)``: checks and loads what the metrics need, once, and returns
  ``measure(material)``, which gives their records (see `material.Record`).
"""
