// Stalls of streams when a worker dies, falls silent, or loses its link to one other worker: real gateway and workers (a stand-in
// engine computes), with links between them that the test breaks. Prints where the time went.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { byteText } from "../../../test/kit/gateway/byte-text.ts";
import { limits } from "../../../test/kit/gateway/gateway-host.ts";
import { localGateway } from "../../../test/kit/gateway/local-gateway.ts";
import { type Scraped, type StallRow, stallRow, stallTable } from "../../../test/kit/gateway/stalls.ts";
import { parse } from "../../../test/kit/kube/scrape.ts";
import { Link } from "../../../test/kit/network/link.ts";
import { doubleEngine } from "../../../test/kit/ranks/double-engine.ts";
import { deployment, deploymentUid, namespace, Ranks, tinyStore } from "../../../test/kit/ranks/ranks.ts";
import { until } from "../../../test/kit/wait.ts";
import { silentLog } from "../../observe/log.ts";
import { startGateway } from "../gateway.ts";

const streams = 5;
const maxTokens = 80;
const layerMs = 2;
/** Long enough to be no hiccup, after which a rank would be given more time. */
const awayMs = 4_000;
/** Detection is promised within 2 s; what follows takes a moment, longer on a machine that is busy. */
const longestMs = 3_500;

/** Each fault by the links that it breaks, one after another; rank 1 is the victim, and does not come back from the last. */
const faults: Readonly<Record<string, { readonly links: readonly string[]; readonly break: "kill" | "silence" }>> = {
  "link to one other worker cut": { links: ["0>1", "1>0"], break: "silence" },
  "silent process": { links: ["gw>1", "0>1", "2>1", "1>0", "1>2"], break: "silence" },
  "killed process": { links: ["gw>1", "0>1", "2>1", "1>0", "1>2"], break: "kill" },
};

let store: Awaited<ReturnType<typeof tinyStore>>;
let world: Awaited<ReturnType<typeof open>>;
let want: readonly string[];
const rows: StallRow[] = [];
before(async () => {
  store = await tinyStore();
  world = await open();
  want = (await askAll()).map(({ text }) => text);
});
after(async () => {
  await world.close();
  store.remove();
  process.stderr.write(stallTable(rows));
});

async function open() {
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index, { layerMs }) } }));
  const links = new Map<string, Link>();
  const through = async (name: string): Promise<string> => {
    const link = await Link.open(() => ranks.byRank.get(Number(name.split(">")[1]))?.worker.grpcPort ?? 0);
    links.set(name, link);
    return link.address;
  };
  for (const rank of [0, 1, 2]) await ranks.launch(rank);
  for (const way of ["0>1", "2>1", "1>0", "1>2"]) ranks.viaOf.set(way, await through(way));
  await ranks.firstPlan();
  const gateway = await startGateway(
    { ...localGateway, namespace, deployment, deploymentUid },
    { tls: ranks.tls("gateway"), textModel: byteText, log: silentLog, limits },
  );
  const members = await Promise.all(
    ranks.members().map(async (member) => Object.assign(member, { address: await through(`gw>${member.rank}`) })),
  );
  gateway.apply({ version: 1, members });
  const scrape = async (): Promise<Scraped> => {
    const texts = [...ranks.byRank.values()].map(async ({ rank, worker }) => [`rank ${rank}`, parse(await worker.metrics.text())] as const);
    const own = await fetch(`http://127.0.0.1:${gateway.metricsPort}/metrics`);
    return new Map([...(await Promise.all(texts)), ["gateway", parse(await own.text())]]);
  };
  const close = async () => {
    await gateway.close(0);
    for (const link of links.values()) link.close();
    await ranks.close();
  };
  return { ranks, gateway, links, scrape, close };
}

interface Text {
  readonly text: string;
  readonly gapsMs: readonly number[];
}

async function ask(port: number, prompt: string): Promise<Text> {
  const body = JSON.stringify({ model: "tiny", prompt, max_tokens: maxTokens, temperature: 0, stream: true, ignore_eos: true });
  const headers = { "content-type": "application/json" };
  const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, { method: "POST", headers, body });
  const [gapsMs, decoder] = [[] as number[], new TextDecoder()];
  let [all, previous] = ["", 0];
  for await (const bytes of response.body ?? []) {
    const now = performance.now();
    if (previous > 0) gapsMs.push(now - previous);
    previous = now;
    all += decoder.decode(bytes, { stream: true });
  }
  assert.match(all, /data: \[DONE\]/, all.slice(-300));
  const events = all.split("\n").flatMap((line) => (line.startsWith("data: {") ? [JSON.parse(line.slice(6))] : []));
  return { text: events.map(({ choices }) => choices?.[0]?.text ?? "").join(""), gapsMs };
}

const askAll = () =>
  Promise.all(Array.from({ length: streams }, (_, i) => ask(world.gateway.httpPort, `${i} is the prompt ${"x".repeat(i)}`)));

for (const [fault, { links: broken, break: how }] of Object.entries(faults)) {
  test(`${fault}: texts stay the same, and no stream stalls for long`, async () => {
    const { ranks, links, scrape } = world;
    const before = await scrape();
    const running = askAll();
    await new Promise((resolve) => setTimeout(resolve, 200));
    for (const way of broken) links.get(way)?.[how]();
    const brokenAt = performance.now();
    const got = await running;
    const longest = Math.max(...got.flatMap(({ gapsMs }) => gapsMs));
    rows.push(stallRow(fault, longest, before, await scrape()));
    assert.deepEqual(
      got.map(({ text }) => text),
      want,
    );
    assert.ok(longest < longestMs, `${longest} ms`);
    if (how === "kill") return;
    await new Promise((resolve) => setTimeout(resolve, brokenAt + awayMs - performance.now()));
    for (const way of broken) links.get(way)?.heal();
    const trusted = () => [0, 1, 2].every((rank) => ranks.suspects(rank).length === 0);
    await until("all trust each other again", trusted, 5_000);
  });
}
