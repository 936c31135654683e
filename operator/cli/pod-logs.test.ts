import assert from "node:assert/strict";
import { test } from "node:test";
import type { KubeObject } from "../kube/kube.ts";
import type { LogLine } from "./log-lines.ts";
import { subjectOf } from "./log-subject.ts";
import { followLogs, type LogSource, podsMax, readLogs, sourcesOf } from "./pod-logs.ts";

const source = (pod: string): LogSource => ({ namespace: "ns", pod, container: "runtime", component: "worker" });
const podOf = (path: string): string => /pods\/([^/]+)\/log/.exec(path)?.[1] ?? "";

test("logs of pods are read together and merged, and a pod that has none is named with the reason", async () => {
  const lines: Record<string, string[]> = {
    a: ["2026-03-01T10:00:01Z one", "2026-03-01T10:00:03Z three"],
    b: ["2026-03-01T10:00:02Z two"],
  };
  const transport = {
    async *stream({ path }: { readonly path: string }) {
      const own = lines[podOf(path)];
      if (!own) throw new Error("container is waiting to start");
      yield* own;
    },
  };
  const read = await readLogs(transport, ["a", "b", "c"].map(source), { tail: 10 });
  assert.deepEqual(
    read.lines.map(({ text }) => text),
    ["one", "two", "three"],
  );
  assert.deepEqual(read.without, [{ pod: "c", why: "container is waiting to start" }]);
});

test("no more pods are read than the bound, and each gives its part of the lines", async () => {
  const paths: string[] = [];
  const transport = {
    async *stream({ path }: { readonly path: string }): AsyncGenerator<string> {
      paths.push(path);
      yield* [];
    },
  };
  await readLogs(
    transport,
    Array.from({ length: podsMax + 6 }, (_, i) => source(`p${i}`)),
    { tail: 100_000, sinceSeconds: 60, previous: true },
  );
  assert.equal(paths.length, podsMax);
  assert.match(paths[0] ?? "", /container=runtime&timestamps=true&tailLines=781&sinceSeconds=60&previous=true$/);
});

test("following goes on with pods that come later, and after a restart from the last line, until it is ended", {
  timeout: 20_000,
}, async () => {
  const ending = new AbortController();
  const pods = ["a"];
  const asked: string[] = [];
  const transport = {
    async *stream({ path }: { readonly path: string }): AsyncGenerator<string> {
      asked.push(path);
      const pod = podOf(path);
      yield "2026-03-01T10:00:01Z first";
      if (asked.filter((each) => podOf(each) === pod).length > 1) yield "2026-03-01T10:00:02Z again";
    },
  };
  const told: LogLine[] = [];
  const following = followLogs(transport, async () => pods.map(source), {
    reading: { tail: 5 },
    signal: ending.signal,
    tell: (lines) => {
      told.push(...lines);
      if (told.length === 1) pods.push("b");
      if (told.length >= 4) ending.abort();
    },
  });
  await following;
  assert.deepEqual(told.map((line) => `${line.source} ${line.text}`).sort(), ["a again", "a first", "b again", "b first"]);
  assert.match(asked[0] ?? "", /tailLines=5&follow=true/);
  assert.match(asked.find((path, i) => i > 0 && podOf(path) === "a") ?? "", /sinceTime=2026-03-01T10%3A00%3A01Z&follow=true/);
});

test("the pods that a deployment's model comes by are read too, each by its own container; of others nothing is", async () => {
  const pod = (component: string): KubeObject => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: `moe-${component}`, namespace: "ns", labels: { "enodia.dev/deployment": "moe", "enodia.dev/component": component } },
  });
  const items = ["worker", "gateway", "weight-server", "downloader", "training", "stranger"].map(pod);
  const kube = { list: async () => ({ items, resourceVersion: "1" }) } as unknown as Parameters<typeof sourcesOf>[0]["kube"];
  const subject = subjectOf("moe");
  const found = async (components: readonly string[]) =>
    (await sourcesOf({ kube }, { namespace: "ns", subject }, components)).map((one) => [one.pod, one.container]);
  assert.deepEqual(await found(subject.components.filter((one) => one !== "operator")), [
    ["moe-downloader", "downloader"],
    ["moe-gateway", "gateway"],
    ["moe-weight-server", "weight-server"],
    ["moe-worker", "runtime"],
  ]);
  assert.deepEqual(await found(["weight-server"]), [["moe-weight-server", "weight-server"]]);
});
