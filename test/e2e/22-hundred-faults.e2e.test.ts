// A hundred faults and changes in the order of a seed, under traffic whose every answer is known: no request fails, no text changes, no pod
// goes or restarts that the fault itself did not strike, and after each all is whole again. A stream that its gateway took along is whole if
// one repeat by its key gives it, of what a rank keeps. ENODIA_FAULTS and ENODIA_FAULT_SEED choose
// how many and which; the table at the end says how long each kind took. With ENODIA_FAULT_MODEL=olmoe-shape the model is one of 4 GB.
import assert from "node:assert/strict";
import { basename } from "node:path";
import { after, before, test } from "node:test";
import { z } from "zod";
import { tagImage } from "../cluster/tag-image.ts";
import { installChart, waitReady } from "../kit/deployment/product.ts";
import { provideShape } from "../kit/models/local-models.ts";
import { until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { otherTag } from "./faults/changes.ts";
import { faults } from "./faults/index.ts";
import { unexplained } from "./faults/pods.ts";
import { type FaultRow, faultTable } from "./faults/report.ts";
import { Scene } from "./faults/scene.ts";
import { scheduleOf } from "./faults/schedule.ts";
import { holders, planOf } from "./held.ts";
import { startTraffic, type Traffic } from "./steady-traffic.ts";
import { clusterName, type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const count = Number(process.env.ENODIA_FAULTS ?? 100);
const seed = Number(process.env.ENODIA_FAULT_SEED ?? 1);
const only = process.env.ENODIA_FAULT_KIND;
const name = "struck";
const replicas = 3;
const gateways = 2;
const clients = 3;
const everyMs = 2_000;
/** One rank alone holds all experts: two may be lost at once. Ranks size their KV pools by themselves. */
const models = {
  "smol-moe": { tokens: 32, expertCodec: "q4_0", memoryPerRank: "450Mi" },
  "olmoe-shape": { tokens: 16, expertCodec: "source", memoryPerRank: "3600Mi" },
} as const;
const model = z.enum(["smol-moe", "olmoe-shape"]).parse(process.env.ENODIA_FAULT_MODEL ?? "smol-moe");
const { tokens, expertCodec, memoryPerRank } = models[model];
const wholeWithinMs = 240_000;

/** A rank that lost its node waits for it: on a node of the others two ranks would go with the next. */
const onePerNode = {
  maxSkew: 1,
  topologyKey: "kubernetes.io/hostname",
  whenUnsatisfiable: "ScheduleAnyway",
  labelSelector: { matchLabels: { "enodia.dev/deployment": name, "enodia.dev/component": "worker" } },
};

let moe: Deployed;
let scene: Scene;
let traffic: Traffic;
const rows: FaultRow[] = [];

explainFailures(() => moe);
before(async () => {
  const target = await openWorld();
  for (const image of ["operator", "runtime"]) await tagImage(clusterName, `enodia/${image}:dev`, `enodia/${image}:${otherTag}`);
  const made = model === "olmoe-shape" ? await provideShape("olmoe", (line) => process.stderr.write(`# ${line}\n`)) : model;
  const runtime = { backend: "cpu", expertCodec, maxContext: 1024 };
  const podTemplate = { spec: { topologySpreadConstraints: [onePerNode] } };
  const gateway = { replicas: gateways };
  const spec = { gateway, model: { uri: `pvc://models/${basename(made)}` }, runtime, experts: { memoryPerRank }, podTemplate };
  moe = await deploy(target, "e2e-hundred", smolMoe(name, spec));
  scene = new Scene(moe);
  await scene.throughGateways();
  traffic = await startTraffic({ url: () => scene.url, repeatAt: (url) => scene.otherThan(url), model: name, clients, everyMs, tokens });
});
after(async () => {
  await traffic?.stop();
  process.stderr.write(faultTable(rows).replaceAll(/^/gm, "# "));
  if (traffic) process.stderr.write(`${JSON.stringify(traffic.counts)}\n`);
  if (moe) {
    await remove(moe);
    await installChart(moe.target); // the files after this one know the first release
  }
});

/** Ready, every rank holds what the plan gives it, and every client has had an answer since. */
async function whole(): Promise<void> {
  await waitReady(moe.kubectl, name, wholeWithinMs);
  const held = async (): Promise<true | undefined> => {
    const plan = await planOf(moe);
    const all = await holders(moe, plan);
    const right = all.length === replicas && all.every(({ planned, held: has, epoch }) => has >= planned && epoch >= plan.epoch);
    return right ? true : undefined;
  };
  await until("every rank to hold its experts", held, { timeoutMs: wholeWithinMs, everyMs: 500 });
}

async function answered(): Promise<void> {
  const before = traffic.counts.requests;
  await until("answers to go on", () => (traffic.counts.requests >= before + 2 * clients ? true : undefined), { timeoutMs: wholeWithinMs });
}

const kinds = faults.map((fault) => fault.name).filter((kind) => only === undefined || only.split(",").some((one) => kind.includes(one)));
for (const [index, { kind, draw }] of scheduleOf(seed, count, kinds).entries()) {
  test(`${index + 1} of ${count}, seed ${seed}: ${kind}`, async () => {
    const fault = faults.find((one) => one.name === kind);
    assert.ok(fault);
    const before = await scene.pods();
    const { failed, changed, repeated, cut } = traffic.counts;
    const resumed = await scene.resumed();
    const struckAt = Date.now();
    const { mayGo, overAt, cut: cutByHand } = await fault.strike(scene, draw);
    await whole();
    const recoveryMs = Date.now() - overAt;
    await answered();
    const stallMs = Math.max(0, ...traffic.gaps.filter(({ at }) => at >= struckAt).map(({ ms }) => ms));
    rows.push({ kind, recoveryMs, stallMs });
    process.stderr.write(`# ${kind}: whole after ${recoveryMs} ms, longest stall ${Math.round(stallMs)} ms\n`);
    const told = traffic.errors.at(-1);
    assert.deepEqual([traffic.counts.failed - failed, traffic.counts.changed - changed], [0, 0], told);
    if (cutByHand === undefined) assert.equal(traffic.counts.repeated, repeated, "a client lost its connection");
    else {
      const went = (await scene.resumed()) - resumed;
      const broke = traffic.counts.cut - cut + cutByHand;
      assert.ok(went >= broke, `${broke} streams were cut, and ranks went on with ${went} without computing anew`);
    }
    assert.deepEqual(unexplained(before, await scene.pods(), mayGo, await scene.evicted()), []);
  });
}

test("every fault of the run was struck, and the traffic went on all along", () => {
  assert.equal(rows.length, count);
  assert.ok(traffic.counts.requests > count, `${traffic.counts.requests} requests`);
  traffic.assertWhole();
});
