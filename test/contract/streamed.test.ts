// Dense weights that take turns in a device's memory, against transformers' logits.
import { looseBackend } from "../kit/devices/loose.ts";
import { streamedBackend } from "../kit/devices/streamed.ts";
import { runGoldenFamilies } from "./golden-families.ts";
import { runGoldenLogits } from "./golden-logits.ts";

const name = "streamed";
const make = async () => streamedBackend(looseBackend().backend, 1 << 20);

runGoldenLogits({ name, make, tolerance: 1e-4 });

runGoldenFamilies({ name, make, tolerance: 1e-4, computes: "all" });
