// Entry of a thread that sorts a model's token texts for the first constraint: a large vocabulary takes a second.
import { parentPort, workerData } from "node:worker_threads";
import { orderOf } from "../../constraints/vocabulary.ts";
import { readTokenTexts } from "../../text/tokenizer.ts";

const { dir } = workerData as { readonly dir: string };
const texts = await readTokenTexts(dir);
parentPort?.postMessage({ texts, order: orderOf(texts) });
