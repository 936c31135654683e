import assert from "node:assert/strict";
import { test } from "node:test";
import { type AuthorityFacts, type Certified, endingMs, overlapMs, renewBeforeMs, rotationStep } from "./authorities.ts";

const now = Date.UTC(2026, 2, 1);
const standing: Certified = { all: true, changed: false };
const far = now + renewBeforeMs;
const soon = far - 1;
const long = now - overlapMs;

interface Case {
  readonly facts: Partial<AuthorityFacts>;
  readonly certified?: Partial<Certified>;
  readonly want: string | undefined;
}

const cases: Readonly<Record<string, Case>> = {
  "a CA with enough left is left alone": { facts: { endsMs: far }, want: undefined },
  "one with less left gets a successor, whatever becomes of the Secrets": { facts: {}, certified: { all: false }, want: "announce" },
  "one that has ended gets one too": { facts: { endsMs: now - 1 }, want: "announce" },
  "one that is not valid yet gets one too": { facts: { beginsMs: now + 1, endsMs: far }, want: "announce" },
  "which waits for nobody": {
    facts: { stage: "Announced", beginsMs: now + 1, endsMs: far },
    certified: { all: false },
    want: "succeed",
  },
  "and makes way where it is not valid yet either": { facts: { stage: "Succeeded", beginsMs: now + 1, endsMs: far }, want: "drop" },
  "the Secrets are noted when all stand": { facts: { stage: "Announced" }, want: "note" },
  "and not before": { facts: { stage: "Announced" }, certified: { all: false }, want: undefined },
  "and anew when one had been changed": { facts: { stage: "Announced", standsSinceMs: long }, certified: { changed: true }, want: "note" },
  "and anew when the time is still to come": { facts: { stage: "Announced", standsSinceMs: now + 1 }, want: "note" },
  "the next CA waits for the overlap": { facts: { stage: "Announced", standsSinceMs: long + 1 }, want: undefined },
  "and signs after it": { facts: { stage: "Announced", standsSinceMs: long }, want: "succeed" },
  "but not while a Secret is behind": {
    facts: { stage: "Announced", standsSinceMs: long },
    certified: { all: false },
    want: undefined,
  },
  "a CA that is about to end waits for nobody": {
    facts: { stage: "Announced", endsMs: now + endingMs - 1 },
    certified: { all: false },
    want: "succeed",
  },
  "the CA before stays until the leaves were noted": { facts: { stage: "Succeeded", endsMs: far }, want: "note" },
  "and for the overlap": { facts: { stage: "Succeeded", endsMs: far, standsSinceMs: long + 1 }, want: undefined },
  "and goes after it": { facts: { stage: "Succeeded", endsMs: far, standsSinceMs: long }, want: "drop" },
  "and at the latest when the next renewal is due": { facts: { stage: "Succeeded" }, certified: { all: false }, want: "drop" },
  "and stays where a leaf could not be renewed": {
    facts: { stage: "Succeeded", endsMs: far, standsSinceMs: long },
    certified: { all: false },
    want: undefined,
  },
};

for (const [what, { facts, certified, want }] of Object.entries(cases)) {
  test(what, () => {
    const all: AuthorityFacts = { stage: "Steady", beginsMs: 0, endsMs: soon, standsSinceMs: undefined, ...facts };
    assert.equal(rotationStep(all, { ...standing, ...certified }, now)?.type, want);
  });
}
