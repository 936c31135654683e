// The processor as the stand-in of a device whose memory is there from the start: what a GPU does with its KV pool, against the contract.
import { createGgmlBackend } from "../../runtime/compute/ggml/index.ts";
import { runBackendContract } from "./backend.ts";
import { runShelves } from "./expert-slabs.ts";
import { runKvPool } from "./kv-pool.ts";
import { runKvTypes } from "./kv-types.ts";

const make = () => createGgmlBackend({ threads: 1, pages: false });

runBackendContract({
  name: "cpu with a pool",
  make,
  numericClass: "exact",
  slack: 4,
  tolerance: 1e-5,
  coarseTolerance: 3e-2,
  lacks: ["softRoute"],
});

runKvTypes({ name: "cpu with a pool", make, tolerance: { f32: 1e-5, f16: 2e-3, q8_0: 1e-2 } });

runKvPool({ name: "cpu with a pool", make, tolerance: 1e-5 });

runKvPool({ name: "cpu", make: () => createGgmlBackend({ threads: 1 }), tolerance: 1e-5 });

runShelves({ name: "cpu with a pool", make, tolerance: 3e-2 });
