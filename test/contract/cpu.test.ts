// The cpu backend (ggml) against the contract, bit contract included, and against transformers' logits.
import { kvTypes } from "../../crds/names.ts";
import { createGgmlBackend } from "../../runtime/compute/ggml/index.ts";
import { buildWithoutTiles } from "../kit/models/cpu-build.ts";
import { runBackendContract } from "./backend.ts";
import { runBitContract } from "./bits.ts";
import { runDenseEquality } from "./dense.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";
import { runKvTypes } from "./kv-types.ts";
import { runRangeContract } from "./ranges.ts";

runBackendContract({
  name: "cpu",
  make: () => createGgmlBackend({ threads: 1 }),
  numericClass: "exact",
  slack: 4,
  tolerance: 1e-5,
  coarseTolerance: 3e-2, // activations are rounded to int8 per block of 32
  lacks: ["softRoute"], // training alone has it
});

runGoldenLogits({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: 1e-5 });

runBitContract({ name: "cpu", make: (threads) => createGgmlBackend({ threads }), kvTypes });

runKvTypes({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: { f32: 1e-5, f16: 2e-3, q8_0: 1e-2 } });

runGoldenFamilies({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: 1e-5, computes: "all" });

runDenseEquality({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: 1e-5 });

runRangeContract({
  name: "cpu without tiles",
  make: (threads) => createGgmlBackend({ threads, cpuBuild: buildWithoutTiles }),
  tolerance: 0,
});

if (buildWithoutTiles !== undefined) runRangeContract({ name: "cpu", make: (threads) => createGgmlBackend({ threads }), tolerance: 0 });
