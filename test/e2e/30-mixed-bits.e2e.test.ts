// A store in which `enodia model quantize` gave experts of one layer unlike bits, on three ranks: the texts are those of one rank,
// also while experts of unlike sizes move.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { ExpertIndex } from "../../runtime/weights/store.ts";
import { type Target, waitReady } from "../kit/deployment/product.ts";
import { ask } from "../kit/gateway/openai-client.ts";
import { provideMixedSmolMoe } from "../kit/models/local-models.ts";
import { until } from "../kit/processes/process.ts";
import { patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { type PlantedLoad, plantLoad } from "./planted-load.ts";
import { PlacementWatch } from "./watch-placement.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "mixed";
const [layers, experts] = [30, 8];
/** All experts on one rank, about 440 MB. */
const memoryPerRank = "600Mi";
const runtime = { backend: "cpu", expertCodec: "source", maxContext: 1024, kvPool: "128Mi" };
const movedWithinMs = 90_000;
const prompts = ["Tell me a long story about a lighthouse.", "Explain how bread is made.", "Write a loop in C.", "List the months."];

let target: Target;
let moe: Deployed;
let watch: PlacementWatch;
let planted: PlantedLoad | undefined;
let index: ExpertIndex;
let ofOneRank: readonly string[];

/** Texts of all prompts at once, greedy and sampled. */
async function texts(): Promise<readonly string[]> {
  const url = await moe.url();
  const answers = prompts.map((prompt, seed) => ask({ url, model, prompt, maxTokens: 32, temperature: seed % 2 === 0 ? 0 : 0.9, seed }));
  return (await Promise.all(answers)).map(({ text }) => text);
}

const bytesOf = (layer: number, expert: number): number => index.codecs.source?.units[layer]?.[expert]?.bytes ?? 0;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  const folder = await provideMixedSmolMoe((line) => void process.stderr.write(`# ${line}\n`));
  index = JSON.parse(readFileSync(join(folder, "expert-index.json"), "utf8"));
  const spec = { model: { uri: "pvc://models/smol-moe-mixed" }, replicas: 1, runtime, experts: { memoryPerRank } };
  moe = await deploy(target, "e2e-mixed-bits", smolMoe(model, spec));
  watch = new PlacementWatch(moe);
  ofOneRank = await texts();
});
after(async () => {
  await planted?.stop();
  await watch?.close();
  if (moe) await remove(moe);
});

test("three ranks share experts of unlike sizes and give the texts of one rank", async () => {
  const sizes = Array.from({ length: experts }, (_, expert) => bytesOf(0, expert));
  assert.ok(Math.min(...sizes) > 0 && new Set(sizes).size > 1, `${sizes}`);
  assert.equal(new Set(ofOneRank).size, prompts.length, "prompts must give different texts, or equality proves nothing");
  await moe.kubectl.run(["scale", `moed/${model}`, "--replicas=3"]);
  await waitReady(moe.kubectl, model);
  assert.deepEqual(await texts(), ofOneRank);
});

test("a rebalance under way and carried out changes no text", async () => {
  const hosts = (): number => new Set(watch.placed.flatMap((layer) => layer.hosts.flat())).size;
  await until("three ranks to host experts", () => (hosts() === 3 ? true : undefined), { timeoutMs: movedWithinMs });
  planted = await plantLoad(moe, { layers, experts, layersTurned: layers });
  planted.turnAgainst(watch.placed);
  const { epoch: parent } = watch;
  await patchRebalancing(moe, model, { mode: "Auto", interval: "1s", trigger: { imbalancePercent: 150, window: "2s", minTokens: 1000 } });
  const isCarriedOut = ({ epoch }: { epoch: number }): boolean => epoch > parent && watch.committedAt(epoch) !== undefined;
  let ended = false;
  const carriedOut = watch.next("a plan against the planted load", isCarriedOut, movedWithinMs).finally(() => {
    ended = true;
  });
  carriedOut.catch(() => {}); // awaited below
  do assert.deepEqual(await texts(), ofOneRank);
  while (!ended);
  await carriedOut;
  const moves = watch.movesSince(parent);
  const sizes = new Set(moves.map(({ layer, expert }) => bytesOf(layer, expert)));
  process.stderr.write(`# ${moves.length} moves of experts of ${[...sizes].join(" and ")} bytes\n`);
  assert.ok(moves.length > 0 && sizes.size > 1);
  assert.deepEqual(await texts(), ofOneRank);
});
