# What differs from site to site; nothing else here does. Read by jobs/submit.sh before it submits
# and by every job when it starts. A variable that is set already wins.

# Partition, account, quality of service: sbatch reads these variables itself.
# export SBATCH_PARTITION=gpu SBATCH_ACCOUNT=project SBATCH_QOS=long

# What the compiler and MPI that built the program need at run time.
# module load gcc openmpi

# How ranks are started: srun (with PMIx), or mpirun inside the allocation.
: "${LAUNCHER:=srun}"
# cores: each rank on cores of its own, all of the node shared out; none: wherever the system likes.
: "${BIND:=cores}"
# An image for pyxis, which adds --container-image to srun; empty: none. The folder of submission is
# mounted at its own place; jobs/Containerfile builds an image. Ranks run the checkout's program in
# it, which is best made there, too: srun --container-image=… --container-mounts=$PWD:$PWD make.
# `make submit` and the collecting job run the same program outside.
: "${CONTAINER:=}"
: "${CONTAINER_MOUNTS:=$PWD:$PWD}"
# Seconds that a point may take to end after the warning; then the job goes back into the queue
# without it. Less than what --signal gives, by what Slurm needs.
: "${GRACE_S:=90}"
