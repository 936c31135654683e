// A greedy text by an engine on a store, printed as token ids: the child process of software.int.test.ts.
//   node test/gpu/text.ts STORE BACKEND TOKENS SHARE DENSE ID...
// SHARE of the experts has copies on the device, and the processor computes too; 1: all lie on the device. DENSE: what is not experts has
// so much of its memory; 1: all.
import { type BackendChoice, backendNames } from "../../crds/names.ts";
import { openStore } from "../../runtime/weights/store-reader.ts";
import { loadedEngine } from "../kit/ranks/loaded-engine.ts";

const [storeDir = "", name, tokens, share, dense, ...ids] = process.argv.slice(2);
const backend = backendNames.find((known) => known === name) as BackendChoice;
const store = await openStore(storeDir);
const onDemand = { run: () => Promise.reject(new Error("all experts are here")) };
const units = store.index.codecs.f32?.units.flat() ?? [];
const deviceExpertBytes = Number(share) * units.reduce((sum, { bytes }) => sum + bytes, 0);
const deviceDenseBytes = Math.floor(Number(dense) * store.denseBytes(32));
const beside = { ...(Number(share) < 1 && { deviceExpertBytes }), ...(Number(dense) < 1 && { deviceDenseBytes }) };
const engine = await loadedEngine(store, { ...beside, storeDir, backend, codec: "f32", kvPoolBytes: 8 << 20, maxContext: 128, onDemand });
const text: number[] = [];
const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
for await (const event of engine.generate({ prompt: ids.map(Number), maxTokens: Number(tokens), sampling, eos: [] }))
  if (event.type === "token") text.push(event.id);
const { device } = engine.describe();
await engine.close();
await store.close();
process.stdout.write(`${JSON.stringify({ device, text })}\n`);
