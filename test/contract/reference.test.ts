// The reference backend against the contract; being its own oracle, it proves here the checks, KV, slots and bookkeeping.
// That its numbers are right is shown by runtime/kernels/kernels.test.ts, runtime/kernels/gradients.test.ts and golden-logits.ts.
import { createReferenceBackend } from "../../runtime/compute/reference.ts";
import { runBackendContract } from "./backend.ts";
import { runDenseEquality } from "./dense.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";
import { runRangeContract } from "./ranges.ts";

runBackendContract({
  name: "reference",
  make: () => createReferenceBackend({ threads: 1 }),
  numericClass: "exact",
  slack: 1,
  tolerance: 1e-5,
  coarseTolerance: 1e-5,
});

runGoldenLogits({ name: "reference", make: () => createReferenceBackend({ threads: 1 }), tolerance: 1e-5 });

/** Of the families' long texts, which take the reference minutes: all of them with ENODIA_LONG=1. */
const longTokensMax = process.env.ENODIA_LONG === "1" ? undefined : 256;

runGoldenFamilies({
  name: "reference",
  make: () => createReferenceBackend({ threads: 1 }),
  tolerance: 1e-5,
  computes: "all",
  longTokensMax,
});

runDenseEquality({ name: "reference", make: () => createReferenceBackend({ threads: 1 }), tolerance: 1e-5 });

runRangeContract({ name: "reference", make: () => createReferenceBackend({ threads: 1 }), tolerance: 0, numRuns: 1 });
