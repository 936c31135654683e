// The cpu backend (ONNX Runtime sessions) against the contract, with two threads: parts of one program on different threads.
import { createCpuBackend } from "../../runtime/backends/cpu/index.ts";
import { runBackendContract } from "./backend.ts";

runBackendContract({
  name: "cpu",
  make: () => createCpuBackend({ threads: 2 }),
  numericClass: "exact",
  slack: 10, // MLAS approximates exp in f32
  tolerance: 1e-5,
  int4Tolerance: 3e-2, // accuracy level 4 rounds activations to int8
});
