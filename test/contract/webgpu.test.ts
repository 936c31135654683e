// The webgpu backend against the contract, on SwiftShader or on the driver that VK_ICD_FILENAMES names.
import "../webgpu-env.ts";
import { createWebGpuBackend } from "../../runtime/backends/webgpu/index.ts";
import { runBackendContract } from "./backend.ts";
import { runDenseEquality } from "./dense.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";

runBackendContract({
  name: "webgpu",
  make: () => createWebGpuBackend({ threads: 1 }),
  numericClass: "tolerance",
  slack: 10, // WGSL lets exp, division and sqrt be off by several units in the last place
  tolerance: 1e-4,
  int4Tolerance: 1e-4,
  lacks: ["addRow", "clampedSwiglu", "slice", "joinHeads", "groupRoute"],
});

// SwiftShader would take 45 s for all 3,000 tokens.
runGoldenLogits({ name: "webgpu", make: () => createWebGpuBackend({ threads: 1 }), tolerance: 1e-4, longTokensMax: 1_024 });

runGoldenFamilies({
  name: "webgpu",
  make: () => createWebGpuBackend({ threads: 1 }),
  tolerance: 1e-4,
  computes: ["olmoe"],
  longTokensMax: 256,
});

runDenseEquality({ name: "webgpu", make: () => createWebGpuBackend({ threads: 1 }), tolerance: 1e-4 });
