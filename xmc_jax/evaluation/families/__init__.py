"""The families of metrics; `selection.FAMILIES` lists them.

A family is a module with three functions:

* ``names(num_prompts)``: the names of its metrics, as ``--metrics`` takes them;
* ``reason_unavailable(name, config, prompts)``: why a metric cannot be computed for a run, or None.
  Before the prompts are read, they are None, and only the config decides;
* ``make_measure(config, mesh, names)``: checks and loads what the chosen metrics need, and returns
  ``measure(inputs)``, which turns an `EvalInputs` into a list of `MetricRecord`.
"""
