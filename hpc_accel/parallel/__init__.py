"""Layouts applied to a model: mesh, data, tensor and pipeline parallelism, all of them torch's own.

Read it in this order:
  apply                     the one way from a layout and a recipe to a model that trains
  mesh                      which rank is which replica, stage and tensor-parallel part
  data, shard, gradients, powersgd    DDP, FSDP2, ZeRO-1; how gradients meet; compressed ones
  batch_norm, outputs_together    BatchNorm and losses over all replicas' samples
  tensor, exchange          layers cut over ranks; what these exchange, as autograd knows it
  pipeline, traced, draws, boundary, forward    stages, their boundaries, what they draw, and forward alone
  seen, block_stages, hollow, ties    stages of a model's blocks; weights that stages share
  layer_times               how long each layer takes, for stages of equal time
  odd_parameters            those that a layout does not treat like the rest
  pieces, holdings          where what a rank holds of each parameter, and of all state, lies in the whole model
  planted                   faults planted by tests
  recompute, float8, memory_layout, loss_device    recipes
"""
