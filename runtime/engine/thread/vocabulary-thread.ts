// Entry of a thread that reads the texts of a model's tokens and puts them in order, for the first request that is held to a language: a
// large vocabulary takes a second, for which no token may wait.
import { parentPort, workerData } from "node:worker_threads";
import { orderOf } from "../../constraints/vocabulary.ts";
import { readTokenTexts } from "../../text/token-texts.ts";

const { dir } = workerData as { readonly dir: string };
const texts = await readTokenTexts(dir);
parentPort?.postMessage({ texts, order: orderOf(texts) });
