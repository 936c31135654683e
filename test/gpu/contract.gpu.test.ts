// A GPU's backend against the contract, and against transformers' logits. Run by main.ts, which says of which kind the GPU is: on one in
// hardware, since an adapter in software takes hours for it.
import { gpuBackend } from "../../runtime/compute/ggml/index.ts";
import { gpuNames } from "../../runtime/compute/ggml/packages.ts";
import { runBackendContract } from "../contract/backend.ts";
import { runDenseEquality } from "../contract/dense.ts";
import { runShelves } from "../contract/expert-slabs.ts";
import { runGoldenFamilies } from "../contract/golden-families.ts";
import { runGoldenLogits } from "../contract/golden-logits.ts";
import { runKvPool } from "../contract/kv-pool.ts";
import { runKvTypes } from "../contract/kv-types.ts";
import { runOverRanks } from "../contract/over-ranks.ts";
import { runStreamed } from "../contract/streamed.ts";
import { twoEngines } from "../kit/devices/two-engines.ts";

const kind = gpuNames.find((name) => name === process.env.ENODIA_GPU);
if (kind === undefined) throw new Error(`ENODIA_GPU is none of ${gpuNames.join(", ")}: npm run test:gpu -- --help`);
const make = () => gpuBackend(kind)({ threads: 1 });
/** Products of halves are off by some units of 2^-11 each: llvmpipe is at 5e-3 in attention. */
const tolerance = 1e-2;

runBackendContract({ name: kind, make, numericClass: "tolerance", slack: 10_000, tolerance, coarseTolerance: 3e-2, lacks: ["softRoute"] });

runGoldenLogits({ name: kind, make, tolerance });

runGoldenFamilies({ name: kind, make, tolerance, computes: "all" });

runDenseEquality({ name: kind, make, tolerance });

runShelves({ name: kind, make, tolerance: 3e-2 });

// In the order of preference of a GPU.
runKvTypes({ name: kind, make, tolerance: { f16: tolerance, q8_0: 2e-2, f32: tolerance }, asDevice: true });

for (const type of ["f16", "f32"] as const) runKvPool({ name: kind, make, tolerance, type });

const withProcessor = async () => twoEngines(await make(), 50_000);
runGoldenFamilies({ name: `${kind} with a processor`, make: withProcessor, tolerance, computes: "all" });

runStreamed({ name: kind, make });

runOverRanks({ name: kind, make, tolerance });
