// The ggml backend against the contract, bit contract included, and against transformers' logits.
import { kvTypes } from "../../crds/names.ts";
import { openGgmlBackend } from "../../runtime/compute/ggml/index.ts";
import { runBackendContract } from "./backend.ts";
import { runBitContract } from "./bits.ts";
import { runDenseEquality } from "./dense.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";
import { runKvTypes } from "./kv-types.ts";

runBackendContract({
  name: "ggml",
  make: () => openGgmlBackend({ threads: 1 }),
  numericClass: "exact",
  slack: 4,
  tolerance: 1e-5,
  int4Tolerance: 3e-2, // activations are rounded to int8 per block of 32
});

runGoldenLogits({ name: "ggml", make: () => openGgmlBackend({ threads: 1 }), tolerance: 1e-5 });

runKvTypes({ name: "ggml", make: () => openGgmlBackend({ threads: 1 }), tolerance: { f32: 1e-5, f16: 2e-3, q8_0: 1e-2 } });

runBitContract({ name: "ggml", make: (threads) => openGgmlBackend({ threads }), kvTypes });

runGoldenFamilies({ name: "ggml", make: () => openGgmlBackend({ threads: 1 }), tolerance: 1e-5, computes: "all" });

runDenseEquality({ name: "ggml", make: () => openGgmlBackend({ threads: 1 }), tolerance: 1e-5 });
