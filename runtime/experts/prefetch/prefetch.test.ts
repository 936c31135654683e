// Predictors on routes that are planted: what each can know, what it cannot, and that it keeps to the interface.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../kernels/random.ts";
import { gridOf } from "../../placement/grid.ts";
import { predictors } from "./index.ts";
import { type Choice, type Predictor, predict } from "./predictor.ts";

const layers = 6;
const experts = 16;
const topK = 2;
const grid = gridOf(Array.from({ length: layers }, (_, layer) => (layer === 2 ? 0 : experts)));
const withExperts = [...Array(layers).keys()].filter((layer) => layer !== 2);

type Routes = (token: number, layer: number) => number[];

/** Tokens that pass each layer in turns, `parts` of them together. */
const passing = (tokens: number, parts: number) =>
  Array.from({ length: tokens / parts }, (_, step) =>
    withExperts.flatMap((layer, at) =>
      Array.from({ length: parts }, (_, part) => ({ token: step * parts + part, part, layer, next: withExperts[at + 1] })),
    ),
  ).flat();

/** Part of the chosen experts among the best `topK` that a predictor names for the next layer, over the later half of the tokens. */
function recall(
  predictor: Predictor,
  tokens: number,
  routes: Routes,
  { ahead, parts = 1 }: { readonly ahead?: Routes; readonly parts?: number } = {},
): number {
  let [found, all] = [0, 0];
  for (const { token, part, layer, next } of passing(tokens, parts)) {
    const ids = Int32Array.from(routes(token, layer));
    const asked = ahead && ((to: number) => ({ ids: Int32Array.from(ahead(token, to)), width: topK }));
    const choice: Choice = { layer, topK, ids, part, ...(asked ? { ahead: asked } : {}) };
    predictor.observe(choice);
    if (next === undefined) continue;
    const named = predict(predictor, choice, [next], topK).map(({ expert }) => expert);
    ids.fill(-1); // nothing may be kept
    if (token * 2 < tokens) continue;
    const wanted = routes(token, next);
    all += wanted.length;
    found += wanted.filter((expert) => named.includes(expert)).length;
  }
  return found / all;
}

const pairOf = (base: number) => [((base % experts) + experts) % experts, (base + 5 + experts) % experts];
const draw = uniform(7);
const bases = Array.from({ length: 600 }, () => Math.floor(draw() * experts));
/** A token goes from expert to expert by one rule, and tokens have nothing to do with each other. */
const chained: Routes = (token, layer) => pairOf((bases[token] as number) * 7 + layer * 3);
/** Tokens keep to their experts for long, by layer at random. */
const steady: Routes = (token, layer) => pairOf(bases[(Math.floor(token / 50) + layer * 97) % bases.length] as number);
const chance = topK / experts;
const make = (name: keyof typeof predictors) => predictors[name].create({ grid });

test("what a layer's experts say of the next layer's is learned by transitions and path, and by nothing that looks elsewhere", () => {
  for (const name of ["transitions", "path"] as const) assert.ok(recall(make(name), 600, chained) > 0.95, name);
  for (const name of ["last", "affinity", "frequency", "random", "ring"] as const)
    assert.ok(recall(make(name), 600, chained) < chance + 0.15, name);
});

test("what a token has of the last one is learned by last and path", () => {
  for (const name of ["last", "path"] as const) assert.ok(recall(make(name), 600, steady) > 0.85, name);
  assert.ok(recall(make("random"), 600, steady) < chance + 0.1);
});

test("rows of two halves that pass layers in turns are no rows of one another", () => {
  for (const name of ["transitions", "path"] as const) assert.ok(recall(make(name), 600, chained, { parts: 2 }) > 0.95, name);
  const opposite: Routes = (token, layer) => pairOf((token % 2) * 8 + layer);
  assert.equal(recall(make("last"), 600, opposite, { parts: 2 }), 1);
});

test("affinity knows a rule between neighbouring tokens that last cannot know", () => {
  const turning: Routes = (token, layer) => pairOf(token * 3 + layer);
  assert.ok(recall(make("affinity"), 600, turning) > 0.95);
  assert.ok(recall(make("last"), 600, turning) < 0.6);
});

test("transitions know no more than frequency of routes that are shuffled", () => {
  const shuffled: Routes = (token, layer) => pairOf(bases[(token * 31 + layer * 211) % bases.length] as number);
  const [by, control] = [recall(make("transitions"), 600, shuffled), recall(make("frequency"), 600, shuffled)];
  assert.ok(Math.abs(by - control) < 0.06, `${by} and ${control}`);
});

test("routers that were asked ahead are believed, each by the input that it goes by, and without them nothing is named", () => {
  for (const name of ["next-gate", "residual"] as const) {
    assert.equal(recall(make(name), 50, chained, { ahead: chained }), 1);
    assert.equal(recall(make(name), 50, chained), 0);
  }
});

test("a predictor that learned a rule chains it to the layer behind the next one", () => {
  const learned = make("transitions");
  recall(learned, 600, chained);
  const choice = { layer: 1, topK, ids: Int32Array.from(chained(5, 1)) };
  learned.observe(choice);
  assert.deepEqual(
    predict(learned, choice, [3, 4], topK)
      .map(({ layer, expert }) => `${layer}.${expert}`)
      .sort(),
    [...chained(5, 3).map((expert) => `3.${expert}`), ...chained(5, 4).map((expert) => `4.${expert}`)].sort(),
  );
});

test("every predictor gives finite scores of as many experts as the layer has, the same each time, for rows and free experts too", () => {
  for (const [name, kind] of Object.entries(predictors)) {
    const run = () => {
      const predictor = kind.create({ grid });
      return withExperts.slice(0, -1).flatMap((layer, at) => {
        const ids = Int32Array.from({ length: 200 * topK }, (_, i) => (i * 7 + layer) % (experts + 2));
        const choice = { layer, topK, ids };
        predictor.observe(choice);
        return [...predictor.scores(choice, withExperts[at + 1] as number)];
      });
    };
    const scores = run();
    assert.equal(scores.length, experts * (withExperts.length - 1), name);
    assert.ok(
      scores.every((score) => Number.isFinite(score) && score >= 0),
      name,
    );
    assert.deepEqual(run(), scores, name);
  }
});
