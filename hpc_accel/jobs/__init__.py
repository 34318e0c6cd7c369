"""Sites, job scripts and requests to Slurm: data in, text out; what a job left in Slurm's books; packed jobs."""
