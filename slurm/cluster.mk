# A throwaway real Slurm on this host (Debian or Ubuntu, root): see docs/cluster.md.
CLUSTER_DIR ?= .cluster
.PHONY: cluster cluster-down

cluster:
	slurm/cluster/up $(CLUSTER_DIR)

cluster-down:
	slurm/cluster/down $(CLUSTER_DIR)
