"""Configuration of the regression tests: IR in, IR out, checked by FileCheck."""

import glob
import os
import shutil
import sys

import lit.formats

config.name = "QLM"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir", ".test"]
config.excludes = ["Inputs", "fuzz", "python"]
config.test_source_root = os.path.dirname(__file__)
config.test_exec_root = os.path.join(config.qlm_obj_root, "test")
config.environment["PATH"] = os.pathsep.join(
    [config.qlm_bin_dir, config.llvm_tools_dir, os.environ["PATH"]])
config.environment["FILECHECK_OPTS"] = "--enable-var-scope"
config.substitutions.append(("%python", sys.executable))
config.substitutions.append(("%source_dir", config.qlm_source_dir))
config.substitutions.append(
    ("%inputs", os.path.join(config.qlm_source_dir, "test", "Inputs")))
# Where the compiler looks for ptxas, which scripts/bootstrap installs.
PTXAS = [os.path.join(os.environ.get("CUDA_HOME", ""), "bin", "ptxas"),
         shutil.which("ptxas"), "/usr/local/cuda/bin/ptxas",
         *glob.glob(os.path.join(config.qlm_source_dir, ".venv", "lib", "*",
                                 "site-packages", "nvidia", "*", "bin",
                                 "ptxas"))]
if any(path and os.access(path, os.X_OK) for path in PTXAS):
    config.available_features.add("ptxas")
with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
    flags = cpuinfo.read()
for flag in ("avx2", "avx512f", "avx512_vnni", "amx_tile"):
    if flag in flags:
        config.available_features.add(flag)
