"""summary.json, typed: what a run leaves behind, written and read here only.

Read in this order:
  text                  texts of other people, without control characters and bounded in length
  figure                Figure(value, unit, reason, remedy): whatever may be missing; with an interval, Estimate
  parts, inference      the objects of a summary; energy: joules and what they cover
  production            how a training to its end ended, where its time went, what was expected of it
  parity                what was compared with the serial run, and how far apart it is
  measured              Energy from what the meter measured, per step, sample, token and epoch
  summary               Summary, and the one of an attempt that measured nothing
  storage               read (Summary or Broken), write
  schema                the JSON schema of docs/summary.schema.json: `python -m hpc_accel.record` writes it
"""

from hpc_accel.record.figure import Figure
from hpc_accel.record.storage import Broken, read, write
from hpc_accel.record.summary import Summary, without_result

__all__ = ["Broken", "Figure", "Summary", "read", "without_result", "write"]
