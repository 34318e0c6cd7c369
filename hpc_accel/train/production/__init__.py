"""A training to its end: what a run does beside its steps where its end is the training's.

Read it in this order:
  evaluations       every so many steps the metric on held-out data; the best so far; whether it may end
  slow_periods      steps that take longer than the measured ones, and which rank is to blame
  weights           the model's weights as one safetensors file that plain torch loads, from any layout
  hugging_face      what `save_pretrained` writes beside it
  metric_files      metrics.parquet, metrics.csv, and TensorBoard's events where that is installed
  goodput           where the time of all attempts went; the record
"""
