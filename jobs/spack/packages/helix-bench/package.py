# A checkout is built in place:
#   spack repo add CHECKOUT/jobs/spack
#   spack dev-build --source-path CHECKOUT helix-bench@main
from spack.package import *


class HelixBench(MakefilePackage, CudaPackage):
    """Decode steps under Helix parallelism and its rivals: executed, verified and timed."""

    license("Apache-2.0")

    version("main")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("openmpi@4.1:")
    depends_on("openblas threads=openmp")
    depends_on("cli11")
    depends_on("nlohmann-json")
    depends_on("fmt")
    depends_on("highway@1.0.3:", type="build")
    depends_on("cuda@12.8:", when="+cuda")
    for arch in CudaPackage.cuda_arch_values:  # +cuda cuda_arch=90a, for Hopper
        depends_on(f"nccl@2.28: cuda_arch={arch}", when=f"+cuda cuda_arch={arch}")
    conflicts("cuda_arch=none", when="+cuda", msg="name the GPUs, as in cuda_arch=90a")
    conflicts("%gcc@:11", msg="C++20 as gcc 12 has it")

    @property
    def build_targets(self):
        spec = self.spec
        targets = ["all", f"MPI_HOME={spec['mpi'].prefix}", f"CXX={spack_cxx}", "CCACHE="]
        if not spec.satisfies("+cuda"):
            return targets + ["CUDA=0"]
        kernels = " ".join(self.cuda_flags(spec.variants["cuda_arch"].value))
        return targets + ["CUDA=1", f"NVCC_GENCODE={kernels}", f"CUDA_HOME={spec['cuda'].prefix}",
                          f"NCCL_HOME={spec['nccl'].prefix}"]

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        install("build/helix-bench", prefix.bin)
        install_tree("configs", prefix.share.join("helix-bench/configs"))

    def setup_run_environment(self, env):
        env.set("HELIX_BENCH_CONFIGS", self.prefix.share.join("helix-bench/configs"))
