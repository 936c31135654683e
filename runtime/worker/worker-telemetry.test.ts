import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { decodeLoad, type LoadWindow } from "../../crds/telemetry.ts";
import { encodeTelemetryKeys } from "../../crds/telemetry-keys.ts";
import { telemetryKey } from "../../test/kit/ranks/telemetry-keys.ts";
import { LoadCounter } from "../engine/pass/load-counter.ts";
import { openLoad } from "../net/load-signature.ts";
import type { Bus } from "../net/nats.ts";
import { type Log, silentLog } from "../observe/log.ts";
import { createMetrics } from "../observe/runtime-metrics.ts";
import { steadyClock } from "../observe/steady-clock.ts";
import { jitterMs, machineId, publishLoad, signingKeyAt } from "./worker-telemetry.ts";

interface Rank {
  readonly rank?: number;
  readonly windowMs?: number;
  readonly clock?: () => number;
}

/** The messages of the first window that a rank publishes after what `count` has counted. */
async function published(
  machine: string | undefined,
  count: (counter: LoadCounter) => void,
  { rank = 0, windowMs = 20, clock = steadyClock() }: Rank = {},
): Promise<LoadWindow[]> {
  const counter = new LoadCounter({ layers: 1, experts: 2 });
  count(counter);
  const metrics = createMetrics({ process: "worker", version: "0", constants: { namespace: "ns", deployment: "moe", rank: "0" } });
  const { promise, resolve } = Promise.withResolvers<LoadWindow[]>();
  const windows: LoadWindow[] = [];
  let asked = 0;
  const bus = {
    publish: (_subject: string, text: string) => {
      const opened = openLoad(new TextEncoder().encode(text), [telemetryKey(1)]);
      assert.ok(opened.ok);
      windows.push(decodeLoad(opened.body));
      if (windows.length === 2) resolve(windows);
      return true;
    },
  } as unknown as Bus;
  const stop = publishLoad({
    engine: { counters: async () => counter.take() },
    ...{ bus, namespace: "ns", name: "moe", prefix: "enodia", layers: 1, experts: 2, windowMs, machine, metrics, log: silentLog },
    self: { deploymentUid: "u", rank, podUid: "p", bootId: "b" },
    clock,
    signingKey: async () => telemetryKey(1),
    report: () => false,
    misses: () => ({ loads: 4 * ++asked, bytes: 100 * asked, seconds: 0.25 * asked }),
  });
  try {
    return await promise;
  } finally {
    stop();
    await metrics.close();
  }
}

test("a load message tells what its rows took, as sums that least squares need", async () => {
  const [prefill, decode] = await published("m", (counter) => {
    counter.served("decode", [0, 1], 6);
    counter.computed("decode", 1, 2, 0.001);
    counter.computed("decode", 2, 4, 0.003);
  });
  assert.deepEqual(decode?.compute, {
    ...{ runs: 2, calls: 3, rows: 6, micros: 4_000, machine: "m" },
    // x = (1, experts, rows), weighted by 1 / (experts + rows): (1, 1, 2) by 1/3 and (1, 2, 4) by 1/6.
    squares: [1 / 3 + 1 / 6, 1 / 3 + 2 / 6, 2 / 3 + 4 / 6, 1 / 3 + 4 / 6, 2 / 3 + 8 / 6, 4 / 3 + 16 / 6],
    times: [1_000 / 3 + 3_000 / 6, 1_000 / 3 + 6_000 / 6, 2_000 / 3 + 12_000 / 6],
  });
  assert.deepEqual([prefill?.phase, prefill?.compute?.runs, prefill?.compute?.micros], ["prefill", 0, 0]);
});

test("a rank that computes on a device of its own names no machine", async () => {
  const [, decode] = await published(undefined, (counter) => counter.computed("decode", 1, 1, 0.001));
  assert.ok(decode?.compute && !("machine" in decode.compute));
});

const worlds: Record<string, readonly { readonly deploymentUid: string; readonly rank: number }[]> = {
  "256 ranks of a deployment": Array.from({ length: 256 }, (_, rank) => ({ deploymentUid: "u", rank })),
  "8 ranks of each of 100 deployments": Array.from({ length: 800 }, (_, i) => ({ deploymentUid: `u${i % 100}`, rank: i % 8 })),
};
for (const [what, ranks] of Object.entries(worlds))
  test(`${what} send in turn, within a quarter of a window, and few at once`, () => {
    const turns = ranks.map((rank) => jitterMs(rank, 5_000));
    assert.ok(Math.min(...turns) >= 0 && Math.max(...turns) < 1_250);
    assert.deepEqual(
      ranks.map((rank) => jitterMs(rank, 3_600_000)),
      turns,
      "an hour's windows wait no longer",
    );
    const near = turns.map((turn) => turns.filter((other) => other >= turn && other < turn + 50).length);
    const most = (2 * ranks.length) / 25;
    assert.ok(Math.max(...near) <= most, `${Math.max(...near)} ranks within 50 ms, at most ${most}`);
  });

test("a rank sends its window when its turn comes after the end", async () => {
  const [windowMs, clock] = [400, steadyClock()];
  const [load] = await published(undefined, () => {}, { rank: 1, windowMs, clock });
  const waited = clock() - (load?.windowEnd ?? 0);
  assert.ok(waited >= jitterMs({ deploymentUid: "u", rank: 1 }, windowMs) - 2, `sent ${waited} ms after the end of its window`);
});

test("all processes of a machine give it the same name", () => {
  assert.match(machineId() ?? "", /^[0-9a-f-]{36}$/);
  assert.equal(machineId(), machineId());
});

test("without a key nothing is published, and with one the next window is", async () => {
  const metrics = createMetrics({ process: "worker", version: "0", constants: { namespace: "ns", deployment: "moe", rank: "0" } });
  const { promise, resolve } = Promise.withResolvers<void>();
  let asked = 0;
  const bus = {
    publish: () => {
      resolve();
      return true;
    },
  } as unknown as Bus;
  const stop = publishLoad({
    engine: { counters: async () => new LoadCounter({ layers: 1, experts: 2 }).take() },
    ...{
      bus,
      namespace: "ns",
      name: "moe",
      prefix: "enodia",
      layers: 1,
      experts: 2,
      windowMs: 20,
      machine: undefined,
      metrics,
      log: silentLog,
    },
    self: { deploymentUid: "u", rank: 0, podUid: "p", bootId: "b" },
    clock: steadyClock(),
    report: () => false,
    signingKey: async () => (asked++ === 0 ? undefined : telemetryKey(1)),
  });
  try {
    await promise;
    assert.match(await metrics.text(), /enodia_telemetry_published_total\{[^}]*result="no_key"[^}]*\} 2/);
  } finally {
    stop();
    await metrics.close();
  }
});

test("a rank signs with the newest key of the file, finds a rotated one by itself, and says once why it has none", async () => {
  const dir = mkdtempSync(join(tmpdir(), "enodia-keys-"));
  try {
    const path = join(dir, "keys");
    const warned: string[] = [];
    const log: Log = { ...silentLog, warn: (fields) => void warned.push((fields as { problem: string }).problem) };
    const key = signingKeyAt(path, log);
    assert.deepEqual([await key(), await key()], [undefined, undefined]);
    assert.equal(warned.length, 1);
    assert.match(warned[0] ?? "", /the telemetry Secret is missing or not mounted yet/);
    writeFileSync(path, encodeTelemetryKeys([telemetryKey(1)]));
    assert.deepEqual(await key(), telemetryKey(1));
    writeFileSync(path, encodeTelemetryKeys([telemetryKey(2), telemetryKey(1)]));
    assert.deepEqual(await key(), telemetryKey(2));
    writeFileSync(path, "half-writ");
    assert.equal(await key(), undefined);
    assert.match(warned[1] ?? "", /telemetry keys: not JSON/);
    assert.equal(await signingKeyAt(undefined, silentLog)(), undefined);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("loads that tokens waited for are told of once in a window, since the one before", async () => {
  const [prefill, decode] = await published("m", () => {});
  assert.equal(prefill?.misses, undefined);
  assert.deepEqual(decode?.misses, { loads: 4, bytes: 100, micros: 250_000 });
});
