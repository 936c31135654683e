// The ggml backend against the contract, bit contract included, and against transformers' logits.
import { kvTypes } from "../../crds/names.ts";
import { openGgmlBackend } from "../../runtime/compute/ggml/index.ts";
import { runBackendContract } from "./backend.ts";
import { runBitContract } from "./bits.ts";
import { runDenseEquality } from "./dense.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";

runBackendContract({
  name: "ggml",
  make: () => openGgmlBackend({ threads: 1 }),
  numericClass: "exact",
  slack: 4,
  tolerance: 1e-5,
  int4Tolerance: 3e-2, // activations are rounded to int8 per block of 32
  kvTolerance: { f16: 2e-3, q8_0: 1e-2 },
});

runGoldenLogits({ name: "ggml", make: () => openGgmlBackend({ threads: 1 }), tolerance: 1e-5 });

runBitContract({ name: "ggml", make: (threads) => openGgmlBackend({ threads }), kvTypes });

runGoldenFamilies({ name: "ggml", make: () => openGgmlBackend({ threads: 1 }), tolerance: 1e-5, computes: "all" });

runDenseEquality({ name: "ggml", make: () => openGgmlBackend({ threads: 1 }), tolerance: 1e-5 });
