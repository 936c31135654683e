// The traces of the rebalance plane, on a simulated cluster: one attempt is one trace, with the plan, the rollout and every call to a rank
// in it; one that ends without a plan has no rollout. That spans reach a collector is runtime/observe/collector.int.test.ts's to see.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "../../test/sim/cluster.ts";
import type { LoopPorts } from "./loop-ports.ts";

const skewed = (layer: number): number[] => Array.from({ length: 8 }, (_, e) => 1000 * 0.55 ** ((e + layer * 3) % 8) + 20);

interface Recorded {
  readonly name: string;
  readonly parent: string | undefined;
  readonly traceparent: string;
  readonly attributes: Record<string, unknown>;
  failed: boolean;
  ends: number;
}

/** Keeps every span that is begun. */
function recorder(): { readonly spans: Recorded[]; readonly tracing: LoopPorts["tracing"] } {
  const spans: Recorded[] = [];
  const tracing: LoopPorts["tracing"] = {
    start: (name, { parent, attributes } = {}) => {
      const id = String(spans.length + 1).padStart(16, "0");
      const traceId = parent ? (parent.split("-")[1] ?? "") : id.repeat(2);
      const span: Recorded = { name, parent, traceparent: `00-${traceId}-${id}-01`, attributes: { ...attributes }, failed: false, ends: 0 };
      spans.push(span);
      return {
        ...{ traceparent: span.traceparent, traceId, event: () => {} },
        set: (more) => void Object.assign(span.attributes, more),
        fail: () => {
          span.failed = true;
        },
        end: () => {
          span.ends++;
        },
      };
    },
  };
  return { spans, tracing };
}

test("an attempt, its plan, its rollout and the calls to ranks are one trace, and every span ends once", async () => {
  const { spans, tracing } = recorder();
  const sim = new SimCluster({ spec: { rebalancing: { trigger: { window: "5s", minTokens: 1000 }, interval: "5s" } }, tracing });
  sim.demand = skewed;
  sim.startOperator();
  await sim.clock.run(60_000);
  assert.deepEqual(sim.faults(), []);
  const named = (name: string): Recorded[] => spans.filter((span) => span.name === name);
  const parentOf = ({ parent }: Recorded) => spans.find(({ traceparent }) => traceparent === parent);

  assert.ok(named("operator.rollout").length >= 2, "the first plan, and one for balance");
  for (const rollout of named("operator.rollout")) {
    assert.equal(rollout.attributes["enodia.outcome"], "committed");
    const attempt = parentOf(rollout);
    assert.equal(attempt?.parent, undefined, "an attempt begins a trace");
    assert.equal(attempt?.attributes["enodia.namespace"], "ns");
    assert.match(attempt?.name ?? "", /^operator\.(first|balance)$/);
  }
  for (const call of ["prepare", "commit", "release"]) {
    const calls = named(`operator.${call}`);
    assert.ok(calls.every((span) => parentOf(span)?.name === "operator.rollout"));
    assert.deepEqual([...new Set(calls.map(({ attributes }) => attributes["enodia.rank"]))].sort(), [0, 1, 2]);
  }
  assert.ok(named("operator.plan").length > 0);
  assert.ok(named("operator.plan").every((span) => parentOf(span)?.name === "operator.balance"));
  const rolledOut = new Set(named("operator.rollout").map(parentOf));
  const held = named("operator.balance").filter((span) => !rolledOut.has(span));
  assert.ok(held.length > 0, "windows without a plan are told too");
  assert.ok(held.every(({ attributes }) => attributes["enodia.end"] === "done"));
  assert.deepEqual(
    spans.filter(({ ends, failed }) => ends !== 1 || failed).map(({ name }) => name),
    [],
  );
});
