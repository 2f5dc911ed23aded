#!/bin/sh
# mpirun with what containers, root and fewer cores than ranks need. The one place for these
# variables: quickstart, tests/run and the pytest fixtures start every world through this script.
# OMP_NUM_THREADS is left to the caller.

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Containers forbid process_vm_readv; without this every large message prints an error.
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_mpi_yield_when_idle=1
export PMIX_MCA_pcompress_base_silence_warning=1

exec "${MPI_HOME:+$MPI_HOME/bin/}mpirun" "$@"
