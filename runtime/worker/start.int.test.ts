// What a start that fails has opened is closed again, and a close closes all, whatever fails on its way.
import assert from "node:assert/strict";
import { createServer } from "node:net";
import { after, before, test } from "node:test";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import type { EngineRows } from "../../test/kit/ranks/engine-rows.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until, within } from "../../test/kit/wait.ts";
import type { Engine, EngineOptions } from "../engine/engine.ts";
import type { WorkerOptions, WorkerOverrides } from "./worker.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
const taken = createServer();
before(async () => {
  store = await tinyStore();
  await new Promise<void>((resolve) => void taken.listen(0, "127.0.0.1", resolve));
});
after(() => {
  store.remove();
  taken.close();
});

/** Servers that listen, and ports to engine threads. */
const open = () => process.getActiveResourcesInfo().filter((kind) => kind === "TCPServerWrap" || kind === "MessagePort").length;

const ranksOf = (options: Partial<WorkerOptions>, overrides: WorkerOverrides = {}) => new Ranks(store, () => ({ ...options, overrides }));

type DoubleEngine = Engine & { readonly connections: EngineRows };

/** An engine of which a part fails. */
const broken = (part: (engine: DoubleEngine) => object) => async (options: EngineOptions) => {
  const engine = (await doubleEngine(store.index)(options)) as DoubleEngine;
  return Object.assign(engine, part(engine));
};
const fails = () => Promise.reject(new Error("broken"));

const starts: Readonly<Record<string, () => Ranks>> = {
  "no engine": () => ranksOf({}, { createEngine: fails }),
  "an engine thread that refuses": () => ranksOf({ kvPoolBytes: 1 }),
  "an engine whose port cannot be opened": () =>
    ranksOf({}, { createEngine: broken(({ connections }) => ({ connections: Object.assign(connections, { open: fails }) })) }),
  "a Control port that another process has": () => ranksOf({ grpcPort: (taken.address() as { port: number }).port }),
  "a metrics port that another process has": () => ranksOf({ metricsPort: (taken.address() as { port: number }).port }),
};
for (const [name, ranks] of Object.entries(starts))
  test(`a start with ${name} leaves nothing open`, async () => {
    const atFirst = open();
    await assert.rejects(within(30_000, ranks().launch(0), "the start fails"));
    await until("all is closed", () => open() === atFirst, 10_000);
  });

const ends: Readonly<Record<string, (options: EngineOptions) => Promise<Engine>>> = {
  "whose engine cannot be drained": broken(() => ({ drain: fails })),
  "whose engine says at its close that it failed": broken(({ connections }) => ({
    close: () => Promise.resolve(connections.close()).then(fails),
  })),
};
for (const [name, createEngine] of Object.entries(ends))
  test(`a worker ${name} closes the rest`, async () => {
    const atFirst = open();
    const { worker } = await ranksOf({}, { createEngine }).launch(0);
    await assert.rejects(within(30_000, worker.close(0), "the close ends"), { message: /broken/ });
    await until("all is closed", () => open() === atFirst, 10_000);
  });

test("a close that comes twice is one, and one that comes during the start closes what has started", async () => {
  const atFirst = open();
  const ranks = ranksOf({});
  const { worker } = await ranks.launch(0);
  const second = ranks.launch(1);
  await Promise.all([worker.close(0), worker.close(0), ranks.close()]);
  await worker.close(0);
  await second;
  await until("all is closed", () => open() === atFirst, 10_000);
});
