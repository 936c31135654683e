// A green deployment as `enodia status` and `enodia rollout status` show it: below the deployment for which it serves, with its phase.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment } from "../../test/kit/deployment/deployment.ts";
import { overviewText } from "./findings-text.ts";
import { rolloutStatusText } from "./rollout-text.ts";

const marks = { labels: { "enodia.dev/green-of": "moe" } };
const seen = (...all: ReturnType<typeof deployment>[]) => ({
  deployments: all.map((one) => ({ deployment: one, placement: undefined, changedAt: undefined })),
  jobs: [],
});
const namesIn = (text: string): string[] =>
  text
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/ {2,}/)[1] ?? "");

test("a green deployment stands below its deployment, wherever the API server lists it", () => {
  const child = deployment({}, {}, { name: "moe-1234abcd", uid: "c", ...marks });
  const [other, own] = [deployment({}, {}, { name: "zoo", uid: "z" }), deployment()];
  assert.deepEqual(namesIn(overviewText(seen(child, other, own))), ["zoo", "moe", "- moe-1234abcd, green deployment"]);
  const elsewhere = deployment({}, {}, { name: "moe-1", namespace: "b", uid: "e", ...marks });
  assert.deepEqual(
    namesIn(overviewText(seen(elsewhere, own))),
    ["- moe-1, green deployment", "moe"],
    "one whose deployment is not shown stays",
  );
});

test("rollout status names the green deployment, its phase and since when", () => {
  const green = { name: "moe-1234abcd", phase: "Serving", since: "2026-03-01T10:00:00Z" };
  const rollout = { phase: "Progressing", revision: 2, green };
  assert.match(rolloutStatusText(deployment({}, { rollout })), /\ngreen +moe-1234abcd Serving +since 2026-03-01T10:00:00Z/);
  assert.doesNotMatch(rolloutStatusText(deployment({}, { rollout: { phase: "Complete" } })), /green/);
});
