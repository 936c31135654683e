// The cpu backend (onnxruntime-node) against the contract, bit contract included, and against transformers' logits.
import { createCpuBackend } from "../../runtime/backends/cpu/index.ts";
import { runBackendContract } from "./backend.ts";
import { runBitContract } from "./bits.ts";
import { runDenseEquality } from "./dense.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";

runBackendContract({
  name: "cpu",
  make: () => createCpuBackend({ threads: 2 }),
  numericClass: "exact",
  slack: 4,
  tolerance: 1e-5,
  int4Tolerance: 3e-2, // activations are rounded to int8 per block of 32 (accuracy level 4)
  lacks: ["addRow", "clampedSwiglu", "slice", "joinHeads", "groupRoute"],
});

runGoldenLogits({ name: "cpu", make: () => createCpuBackend({ threads: 2 }), tolerance: 1e-5 });

runBitContract({ name: "cpu", make: (threads) => createCpuBackend({ threads }) });

runGoldenFamilies({
  name: "cpu",
  make: () => createCpuBackend({ threads: 2 }),
  tolerance: 1e-5,
  computes: ["olmoe"],
  longTokensMax: 1_024,
});

runDenseEquality({ name: "cpu", make: () => createCpuBackend({ threads: 2 }), tolerance: 1e-5 });
