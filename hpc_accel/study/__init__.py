"""The study file and what needs no torch: schema, rules, and expansion into runs.

Read it in this order:
  study_file, choices            what a person writes; lists are compared
  run, layout, recipe, optimizer, infer_options    one run, fully resolved: run.json
  expand, expand_infer, shares   a study into runs
  production                     a run that trains to its end
  rules, rules_*, refusal        what cannot work, told as value, rule, remedy before any rank starts
  references                     which runs share a serial reference, and its job
  node_kinds, devices            runs on nodes that differ; what `device` means
  sources, results               the user's files that a workload depends on; whose results a directory holds
  builtin_workloads, model_facts, stage_partition    names of models, their sizes, layers into stages
  sbatch_options, slurm_time     what else Slurm may be asked, and how it writes times
  yaml, base, run_file, starter  reading files; the strict base of all schemas; what `init` writes
"""
