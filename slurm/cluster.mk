# A cluster in a box on this host (Debian or Ubuntu, root), with NODES, LINK, CORES and MEMORY: see docs/cluster.md.
CLUSTER_DIR ?= .cluster
export NODES LINK CORES MEMORY
.PHONY: cluster cluster-down

cluster:
	slurm/cluster/up $(CLUSTER_DIR)

cluster-down:
	slurm/cluster/down $(CLUSTER_DIR)
