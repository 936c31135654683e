// An informer keeps up with the API server through dropped, expired, short and silent watches.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { ManualClock } from "../../test/kit/manual-clock.ts";
import { Informer } from "./informer.ts";
import { type KubeObject, resources, type WatchEvent } from "./kube.ts";

const settle = () => sleep(5);
const manager = { manager: "test" };
const configMap = (name: string): KubeObject => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name, namespace: "ns" } });

test("an informer follows, survives dropped watches, and relists when its version is gone", { timeout: 10_000 }, async () => {
  const kube = new FakeKube();
  const seen: string[] = [];
  const informer = new Informer(resources.configMaps, {}, { kube, random: () => 0 });
  informer.onChange((object, change) => seen.push(`${change} ${object.metadata.name}`));
  await kube.create(resources.configMaps, configMap("a"), manager);
  informer.start();
  await settle();
  assert.equal(informer.hasSynced, true);
  await kube.create(resources.configMaps, configMap("b"), manager);
  await settle();
  kube.dropWatches();
  await kube.create(resources.configMaps, configMap("c"), manager);
  await sleep(200);
  assert.deepEqual(seen, ["set a", "set b", "set c"]);
  // The next watch starts before the compaction: it must list again and notice what went meanwhile.
  kube.remove(resources.configMaps, { namespace: "ns", name: "a" });
  await kube.create(resources.configMaps, configMap("d"), manager);
  kube.compact();
  await sleep(600);
  assert.deepEqual(
    informer
      .list()
      .map((object) => object.metadata.name)
      .sort(),
    ["b", "c", "d"],
  );
  await informer.stop();
});

test("an informer that cannot list tries again and reports why", { timeout: 10_000 }, async () => {
  const kube = new FakeKube();
  let failures = 2;
  const errors: unknown[] = [];
  const list: FakeKube["list"] = async (...args) => {
    if (failures-- > 0) throw new AppError("away", { code: "Unavailable" });
    return kube.list(...args);
  };
  const informer = new Informer(
    resources.configMaps,
    {},
    { kube: { list, watch: kube.watch }, random: () => 0, onError: (error) => errors.push(error) },
  );
  informer.start();
  await sleep(1200);
  assert.equal(informer.hasSynced, true);
  assert.equal(errors.length, 2);
  await informer.stop();
});

/** The API with watches played here, and what was asked of it. */
function played(watch: (signal: AbortSignal) => AsyncIterable<WatchEvent>) {
  const kube = new FakeKube();
  const asked: string[] = [];
  const list: FakeKube["list"] = (...args) => {
    asked.push("list");
    return kube.list(...args);
  };
  const counted: FakeKube["watch"] = (_resource, { signal, resourceVersion }) => {
    asked.push(`watch ${resourceVersion}`);
    return watch(signal);
  };
  return { kube, asked, deps: { list, watch: counted } };
}

test("a watch that says nothing for two minutes is given up, and what was missed is listed", async () => {
  const clock = new ManualClock();
  const hangs = async function* (signal: AbortSignal): AsyncIterable<WatchEvent> {
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(new AppError("aborted", { code: "Unavailable" }))));
  };
  const { kube, asked, deps } = played(hangs);
  const errors: unknown[] = [];
  const informer = new Informer(resources.configMaps, {}, { kube: deps, clock, random: () => 0, onError: (error) => errors.push(error) });
  informer.start();
  await clock.advance(60_000);
  assert.equal(informer.silentMs, 60_000);
  await kube.create(resources.configMaps, configMap("a"), manager);
  await clock.advance(59_000);
  assert.equal(informer.get({ namespace: "ns", name: "a" }), undefined);
  await clock.advance(2_000);
  assert.ok(informer.get({ namespace: "ns", name: "a" }));
  assert.deepEqual(asked, ["list", "watch 1000", "list", "watch 1001"]);
  assert.deepEqual(errors, []);
  await informer.stop();
});

test("bookmarks keep a quiet watch, and it goes on from the last of them", async () => {
  const clock = new ManualClock();
  let rounds = 0;
  const quiet = async function* (signal: AbortSignal): AsyncIterable<WatchEvent> {
    for (let i = 0; i < 5; i++) {
      await new Promise<void>((resolve) => {
        clock.after(60_000, resolve);
        signal.addEventListener("abort", () => resolve());
      });
      if (signal.aborted) return;
      yield { type: "BOOKMARK", resourceVersion: String(2_000 + rounds++) };
    }
  };
  const { asked, deps } = played(quiet);
  const informer = new Informer(resources.configMaps, {}, { kube: deps, clock, random: () => 0 });
  informer.start();
  await clock.advance(310_000);
  assert.deepEqual(asked, ["list", "watch 1000", "watch 2004"]);
  assert.equal(informer.version, "2004");
  await informer.stop();
});

test("a watch that ends at once is a failure: it is not begun again without a pause", async () => {
  const clock = new ManualClock();
  const { asked, deps } = played(async function* () {});
  const errors: unknown[] = [];
  const informer = new Informer(resources.configMaps, {}, { kube: deps, clock, random: () => 0, onError: (error) => errors.push(error) });
  informer.start();
  await clock.advance(5_000);
  assert.ok(asked.length < 14, `asked ${asked.length} times in 5 s`);
  assert.match(String(errors[0]), /the watch ended at once/);
  await informer.stop();
});

test("a refresh waits for a list that begins after it, or for trouble", async () => {
  const clock = new ManualClock();
  const hangs = async function* (signal: AbortSignal): AsyncIterable<WatchEvent> {
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(new AppError("aborted", { code: "Unavailable" }))));
  };
  const { kube, asked, deps } = played(hangs);
  const errors: unknown[] = [];
  const informer = new Informer(resources.configMaps, {}, { kube: deps, clock, random: () => 0, onError: (error) => errors.push(error) });
  informer.start();
  await clock.advance(1_000);
  await kube.create(resources.configMaps, configMap("a"), manager);
  const fresh = informer.refresh();
  await clock.advance(0);
  await fresh;
  assert.ok(informer.get({ namespace: "ns", name: "a" }));
  assert.deepEqual(asked, ["list", "watch 1000", "list", "watch 1001"]);
  assert.deepEqual(errors, []);
  deps.list = () => Promise.reject(new AppError("configmaps is forbidden", { code: "Forbidden" }));
  const troubled = informer.refresh();
  await clock.advance(5_000);
  await troubled;
  assert.match(informer.trouble ?? "", /configmaps is forbidden/);
  await informer.stop();
});

test("an informer whose server is away is in trouble and does not hang; its trouble ends with the first list", async () => {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  let away = true;
  const list: FakeKube["list"] = (...args) => (away ? Promise.reject(new AppError("away", { code: "Unavailable" })) : kube.list(...args));
  const informer = new Informer(resources.configMaps, {}, { kube: { list, watch: kube.watch }, clock, random: () => 0 });
  informer.start();
  assert.match(informer.trouble ?? "", /not listed yet/);
  await clock.advance(15 * 60_000);
  assert.match(informer.trouble ?? "", /away/);
  assert.ok(informer.silentMs > 14 * 60_000);
  assert.ok(informer.stuckMs < 60_000, `${informer.stuckMs} ms`);
  away = false;
  await clock.advance(25_000);
  assert.equal(informer.trouble, undefined);
  await informer.stop();
});
