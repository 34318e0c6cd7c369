"""What is trained: the contract with the user's code, what is counted of a model, and the built-in models.

Read it in this order:
  workload, entry, sudden_exit, streams    the contract: model, loss, data, metric; calling the user's `module:function`
  batch, nested               samples as people write them, collated, parted into inputs and targets
  stream                      data that come one after the other, in global batches
  chain, blocks, block_chain  models in pieces, which pipelines cut and recomputation wraps
  control_flow                what a step leaves idle
  tracer, stage_facts         models that torch's tracer cuts; what stands against stages
  linears, tensor_plan, kv_cache, batch_norms    what a model says of tensor parallelism and of generation
  transformers_plan, certain_plan    what is known of tensor parallelism where the model's author says nothing
  parameter_groups, optimizers, schedules    what updates the weights, by names of parameters
  tape, recorder, deferred, weight_files    models built without values, and what gives a part of one its own
  twin                        a smaller model of the same kind, with fewer of its alike blocks
  counting, count_facts, optimizer_facts, facts_without_weights    operations, memory and sizes for the planner
  sixteen_bits, alone         whether a model runs under autocast; a world of one for what talks to other ranks
  builtin/                    the built-in models and their data, by the same contract
"""
