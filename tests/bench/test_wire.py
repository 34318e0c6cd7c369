"""The least that links allow."""

from __future__ import annotations

import pytest

from hpc_accel.bench.wire import Wire, sent_bytes

KERNEL = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo: 9999999      10    0    0    0     0          0         0  9999999      10    0    0
  eth0:    1000      10    0    0    0     0          0         0     2500      20    0    0
   ib0:       5       1    0    0    0     0          0         0      500       2    0    0
"""


@pytest.mark.parametrize(("num_nodes", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_an_all_reduce_sends_twice_all_but_a_nodes_own_part(num_nodes, factor):
    wire = Wire(num_nodes=num_nodes, bytes_per_s=1e9)
    assert wire.all_reduce_bytes(1000) == 1000 * factor
    assert wire.all_reduce_s(10**9) == factor


def test_what_a_node_sent_is_that_of_its_links():
    assert sent_bytes(KERNEL) == 3000
    assert sent_bytes() >= 0
