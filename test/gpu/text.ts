// A greedy text by an engine on a store, printed as token ids: the child process of software.int.test.ts.
//   node test/gpu/text.ts STORE BACKEND TOKENS SHARE ID...
// SHARE of the experts has copies on the device, and the processor computes too; 1: all lie on the device.
import { type BackendChoice, backendNames } from "../../crds/names.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { loadedEngine } from "../kit/ranks/loaded-engine.ts";

const [storeDir = "", name, tokens, share, ...ids] = process.argv.slice(2);
const backend = backendNames.find((known) => known === name) as BackendChoice;
const store = await openStore(storeDir);
const onDemand = { run: () => Promise.reject(new Error("all experts are here")) };
const units = store.index.codecs.f32?.units.flat() ?? [];
const deviceExpertBytes = Number(share) * units.reduce((sum, { bytes }) => sum + bytes, 0);
const beside = Number(share) < 1 ? { deviceExpertBytes } : {};
const engine = await loadedEngine(store, { ...beside, storeDir, backend, codec: "f32", kvPoolBytes: 8 << 20, maxContext: 128, onDemand });
const text: number[] = [];
const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
for await (const event of engine.generate({ prompt: ids.map(Number), maxTokens: Number(tokens), sampling, eos: [] }))
  if (event.type === "token") text.push(event.id);
const { device } = engine.describe();
await engine.close();
await store.close();
process.stdout.write(`${JSON.stringify({ device, text })}\n`);
