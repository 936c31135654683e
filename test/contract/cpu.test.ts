// The cpu backend (ggml) against the contract, bit contract included, and against transformers' logits.
import { createGgmlBackend } from "../../runtime/compute/ggml/index.ts";
import { runBackendContract } from "./backend.ts";
import { runBitContract } from "./bits.ts";
import { runDenseEquality } from "./dense.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";

runBackendContract({
  name: "cpu",
  make: () => createGgmlBackend({ threads: 1 }),
  numericClass: "exact",
  slack: 4,
  tolerance: 1e-5,
  coarseTolerance: 3e-2, // activations are rounded to int8 per block of 32
});

runGoldenLogits({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: 1e-5 });

runBitContract({ name: "cpu", make: (threads) => createGgmlBackend({ threads }) });

runGoldenFamilies({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: 1e-5, computes: "all" });

runDenseEquality({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: 1e-5 });
