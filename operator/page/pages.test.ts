import assert from "node:assert/strict";
import { test } from "node:test";
import { labels } from "../../crds/common.ts";
import { parseMoEDeployment } from "../../crds/moe-deployment.ts";
import type { KubeObject } from "../kube/kube.ts";
import { judge } from "../views/findings/index.ts";
import { podFactsOf } from "../views/pods.ts";
import { pageDocument, signInDocument, standbyDocument } from "./document.ts";
import { html } from "./html.ts";
import { pages } from "./pages.ts";
import { findingsHtml, findingsShown } from "./sections-findings.ts";
import { rowsMax } from "./sections-fleet.ts";
import { PageState } from "./state.ts";

const evil = `<img src=x onerror="alert(1)">&'`;

const moed = (name: string, status: object = {}, spec: object = { model: { uri: "pvc://m/x" } }): KubeObject => {
  return { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { namespace: "ns", name, uid: name }, spec, status };
};
const stateOf = (objects: readonly KubeObject[]): PageState =>
  new PageState({
    cache: { list: (name) => (name === "moeDeployments" ? objects : []) },
    warnings: { of: () => ({ events: [], unread: [] }) },
    now: () => 1_700_000_000_000,
  });
const condition = (type: string, status: string, reason: string, message = "m") => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: "2026-03-01T10:00:00Z",
});
const made = (objects: readonly KubeObject[], page: string, query = "") => {
  const found = pages[page]?.(stateOf(objects).source(), new URLSearchParams(query)) ?? assert.fail();
  return { page: found, text: pageDocument(found, page, new URLSearchParams(query)) };
};

test("what the cluster says stays text, wherever it stands", () => {
  const objects = [moed("a", { conditions: [condition("Ready", "False", "Bad", evil)] }, { model: { uri: `pvc://m/x`, servedName: "n" } })];
  for (const [page, query] of [
    ["", `search=${encodeURIComponent(evil)}`],
    ["", ""],
    ["deployment", "namespace=ns&name=a"],
  ] as const) {
    const { text } = made(objects, page, query);
    assert.ok(!text.includes("<img"), page);
  }
  assert.equal(html`<b title="${evil}">${evil}</b>`.text.match(/[<>]/g)?.length, 4);
  assert.ok(!standbyDocument(evil, evil, new URLSearchParams([[evil, evil]])).includes("<img"));
  assert.ok(!signInDocument({ charsMax: 1, help: evil }, evil).includes("<img"));
});

test("no page names an address that is not relative, nor has a script or a style in it", () => {
  for (const text of [
    made([moed("a")], "").text,
    made([moed("a")], "deployment", "namespace=ns&name=a").text,
    standbyDocument("x", "", new URLSearchParams()),
    signInDocument({ charsMax: 1, help: "" }, undefined),
  ]) {
    for (const [, address = ""] of text.matchAll(/(?:href|src|action|data-events)="([^"]*)"/g)) assert.match(address, /^(\.\/|#|data:,$)/);
    assert.doesNotMatch(text, /<script(?![^>]* src=)|<style| style=| on\w+=/);
  }
});

test("what needs a person comes first, then what is under way; rows have a bound and the search finds the others", () => {
  const many = Array.from({ length: rowsMax + 5 }, (_, n) =>
    moed(`w${n}`, { conditions: [condition("Ready", "True", "AllReplicasAvailable")] }),
  );
  const objects = [
    ...many,
    moed("busy", { conditions: [condition("Ready", "False", "RanksNotReady"), condition("Progressing", "True", "Starting")] }),
    moed("refused", { conditions: [condition("SpecAccepted", "False", "InvalidSpec"), condition("Ready", "True", "x")] }),
    moed("unread", {}, { model: 7 }),
  ];
  const { text } = made(objects, "");
  const order = [...text.matchAll(/id="d-ns-(\w+)"/g)].map(([, name]) => name);
  assert.deepEqual(order.slice(0, 3), ["refused", "unread", "busy"]);
  assert.equal(order.length, rowsMax);
  assert.match(text, /8 more; search to see them/);
  assert.match(made(objects, "", `search=w${rowsMax + 4}`).text, new RegExp(`d-ns-w${rowsMax + 4}"`));
});

test("the first line counts the ranks that are missing and the deployments in trouble of all, whatever the search", () => {
  const short = { expertParallel: { desiredRanks: 3, activeRanks: 1 }, conditions: [condition("Ready", "False", "RanksNotReady")] };
  const whole = { expertParallel: { desiredRanks: 2, activeRanks: 2 }, conditions: [condition("Ready", "True", "AllReplicasAvailable")] };
  const { page } = made([moed("a", short), moed("b", whole)], "", "search=b");
  const facts = [...(page.sections.summary?.text ?? "").matchAll(/<dt>(.*?)<\/dt><dd>(.*?)<\/dd>/g)].map(([, name, value]) => [
    name,
    value,
  ]);
  assert.deepEqual(facts, [
    ["Deployments", "2"],
    ["In trouble", "1"],
    ["Ranks missing", "2"],
  ]);
});

test("the page of a deployment begins with its headline, and the commands to use it come below", () => {
  const { text } = made([moed("a")], "deployment", "namespace=ns&name=a");
  const at = (part: string) => text.indexOf(part);
  assert.ok(at('class="headline"') > 0 && at('class="headline"') < at("<dt>Model"), "before other facts");
  assert.ok(at("curl http://localhost:8000/v1") > at('class="headline"'));
});

test("a deployment that is gone, or that cannot be read, says so", () => {
  assert.equal(made([], "deployment", "namespace=ns&name=a").page.status, 404);
  assert.equal(made([], "deployment", "").page.status, 404);
  assert.match(made([moed("a", {}, { model: 7 })], "deployment", "namespace=ns&name=a").text, /It cannot be read: .*model/s);
});

test("holds of a roll and a suspension are nobody's fault", () => {
  const markOf = (...conditions: object[]): string => /class="health (\w+)"/.exec(made([moed("a", { conditions })], "").text)?.[1] ?? "";
  assert.equal(markOf(condition("Ready", "False", "Suspended"), condition("Progressing", "False", "Converged")), "idle");
  assert.equal(markOf(condition("Ready", "True", "x"), condition("Progressing", "False", "RolloutPaused")), "well");
  assert.equal(markOf(condition("Ready", "True", "x"), condition("Progressing", "False", "DeadlineExceeded")), "wrong");
  assert.equal(markOf(condition("Ready", "True", "x"), condition("Degraded", "True", "RanksLost")), "wrong");
  assert.equal(markOf(), "unknown");
});

test("each section that may change has a place in its document, or the browser would load it again and again", () => {
  for (const [page, query] of [
    ["", ""],
    ["deployment", "namespace=ns&name=a"],
    ["deployment", "namespace=ns&name=gone"],
    ["job", "namespace=ns&name=gone"],
  ] as const) {
    const { page: found, text } = made([moed("a")], page, query);
    for (const id of Object.keys(found.sections)) assert.ok(text.includes(`id="s-${id}"`), `${page}: ${id}`);
  }
});

test("the page of a deployment has the findings of `enodia status`: cause, evidence and command, the worst ones where there are many", () => {
  const now = new Date(1_700_000_000_000);
  const pod = (n: number, reason: string): KubeObject => ({
    ...{ apiVersion: "v1", kind: "Pod", metadata: { namespace: "ns", name: `a-${n}`, labels: { [labels.deployment]: "a" } } },
    ...{ spec: { containers: [{ name: "runtime", image: "i", resources: { limits: { memory: "2Gi" } } }] } },
    status: {
      containerStatuses: [
        { name: "runtime", restartCount: 2, lastState: { terminated: { reason, exitCode: 1, finishedAt: now.toISOString() } } },
      ],
    },
  });
  const deployment = moed("a", { conditions: [condition("Ready", "False", "RanksNotReady", "0 of 1 ranks serve")] });
  const pods = [pod(0, "OOMKilled")];
  const events = Array.from({ length: 4 }, (_, n) => ({
    ...{ namespace: "ns", kind: "MoEDeployment", name: "a", reason: `Odd${n}`, message: `of ${n}`, count: 1, lastAt: now },
  }));
  const unread = [{ what: "events", why: "half of them" }];
  const lists: Record<string, KubeObject[]> = { moeDeployments: [deployment], pods: [...pods, ...others(pod)] };
  const state = new PageState({
    cache: { list: (name, wanted = () => true) => (lists[name] ?? []).filter(wanted) },
    warnings: { of: (namespace) => (namespace === "ns" ? { events, unread } : assert.fail()) },
    now: () => now.getTime(),
  });
  const { sections } = pages.deployment?.(state.source(), new URLSearchParams("namespace=ns&name=a")) ?? assert.fail();
  const text = sections.findings?.text ?? "";
  const judged = { deployment: parseMoEDeployment(deployment), placement: undefined, changedAt: undefined };
  const observed = { now, deployments: [judged], jobs: [], pods: pods.flatMap((one) => podFactsOf(one) ?? []), events, unread };
  const { findings } = judge(observed);
  assert.equal(findings.length, 5);
  for (const { what, why, remedy, effect = "" } of findings)
    for (const words of [what, why, remedy, effect]) assert.ok(text.includes(html`${words}`.text), words);
  assert.match(text, /^<p><b>5 things are wrong, the worst first.*killed for memory.*it may take 2Gi.*0 of 1 ranks serve.*half of them/s);
  const many = Array.from({ length: findingsShown + 2 }, (_, n) => ({
    ...judged.deployment,
    metadata: { ...judged.deployment.metadata, name: `d${n}` },
  }));
  const bounded = findingsHtml(
    { ...observed, deployments: many.map((one) => ({ ...judged, deployment: one })), pods: [], events: [] },
    "enodia status",
  );
  assert.equal(bounded.text.match(/<li>/g)?.length, findingsShown);
  assert.match(bounded.text, /2 more: enodia status/);
});

/** Of a namesake in another namespace, and of another deployment. */
const others = (pod: (n: number, reason: string) => KubeObject): KubeObject[] =>
  [{ namespace: "other" }, { labels: { [labels.deployment]: "b" } }].map((metadata) => {
    const one = pod(7, "Error");
    return { ...one, metadata: { ...one.metadata, ...metadata } };
  });
