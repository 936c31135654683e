// The processor as the stand-in of a device whose bits are free: the graphs that GPUs get, against the contract.
import { looseBackend } from "../kit/devices/loose.ts";
import { runBackendContract } from "./backend.ts";
import { runDenseEquality } from "./dense.ts";
import { runShelves } from "./expert-slabs.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";
import { runKvPool } from "./kv-pool.ts";
import { runKvTypes } from "./kv-types.ts";

const name = "cpu with free bits";
const make = async () => looseBackend().backend;
const tolerance = 1e-4;

runBackendContract({ name, make, numericClass: "tolerance", slack: 10_000, tolerance, coarseTolerance: 3e-2, lacks: ["softRoute"] });

runGoldenLogits({ name, make, tolerance });

runGoldenFamilies({ name, make, tolerance, computes: "all" });

runDenseEquality({ name, make, tolerance });

runShelves({ name, make, tolerance: 3e-2 });

runKvTypes({ name, make, tolerance: { f16: 2e-3, q8_0: 2e-2, f32: tolerance }, asDevice: true });

for (const type of ["f16", "f32"] as const) runKvPool({ name, make, tolerance: type === "f16" ? 5e-3 : tolerance, type });
