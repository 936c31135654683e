// Experts of a layer on a device and on a processor beside it, against transformers' logits.
import { looseBackend } from "../kit/devices/loose.ts";
import { twoEngines } from "../kit/devices/two-engines.ts";
import { runShelves } from "./expert-slabs.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";

const name = "two engines";
const make = () => twoEngines(looseBackend().backend, 50_000);

runGoldenLogits({ name, make, tolerance: 1e-4 });

runGoldenFamilies({ name, make, tolerance: 1e-4, computes: "all" });

runShelves({ name, make, tolerance: 3e-2 });
