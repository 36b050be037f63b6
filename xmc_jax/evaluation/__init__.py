"""Measuring a generator: prompts, real and drawn pictures in, records of numbers out.

`families` is the way in. A family of metrics is a module of this package with

* ``names(config)``: its metrics for a configuration, as ``--metrics`` takes them;
* ``why_unfit(name, config)``: why a metric cannot judge a run, or None;
* ``make_measure(experiment, names)``: checks and loads what the metrics need, once, and returns
  ``measure(material)``, which gives their records (see `material.Record`).
"""
