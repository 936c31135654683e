// attention on the device, two dispatches: rotate q, append rotated k and v to the cache; then one workgroup per (row, head)
// walks its keys in tiles with a running softmax. Pure.
import type { Op } from "../../../kernels/segment.ts";
import { flatGroups, type Lower, value } from "./lower.ts";
import { f32, reads, reduction, shader, workgroupSize, writes } from "./shader.ts";

type Attention = Extract<Op, { op: "attention" }>;
export type Heads = Pick<Attention, "heads" | "kvHeads" | "headDim">;

const positionOf = `  let sequence = row / params.tokens;
  let position = u32(past[sequence]) + row % params.tokens;`;

/** One thread per pair of a head: q pairs first, then k, then v. */
export function appendWgsl({ heads, kvHeads, headDim }: Heads): string {
  const half = headDim / 2;
  const pairs = (heads + 2 * kvHeads) * half;
  return shader({
    storage: [
      reads("past", "i32"),
      reads("q"),
      reads("k"),
      reads("v"),
      reads("rope", "vec2<f32>"),
      writes("rotated"),
      writes("keys"),
      writes("values"),
    ],
    groups: `(params.rows * ${pairs}u + ${workgroupSize - 1}u) / ${workgroupSize}u`,
    body: `  let at = group * ${workgroupSize}u + lane;
  if (at >= params.rows * ${pairs}u) { return; }
  let row = at / ${pairs}u;
  let head = (at % ${pairs}u) / ${half}u;
  let i = at % ${half}u;
${positionOf}
  let turn = rope[position * ${half}u + i];
  if (head < ${heads}u) {
    let source = (row * ${heads}u + head) * ${headDim}u + i;
    rotated[source] = q[source] * turn.x - q[source + ${half}u] * turn.y;
    rotated[source + ${half}u] = q[source + ${half}u] * turn.x + q[source] * turn.y;
    return;
  }
  let kvHead = (head - ${heads}u) % ${kvHeads}u;
  let source = (row * ${kvHeads}u + kvHead) * ${headDim}u + i;
  let to = (((params.firstSlot + sequence) * ${kvHeads}u + kvHead) * params.context + position) * ${headDim}u + i;
  if (head < ${heads + kvHeads}u) {
    keys[to] = k[source] * turn.x - k[source + ${half}u] * turn.y;
    keys[to + ${half}u] = k[source + ${half}u] * turn.x + k[source] * turn.y;
  } else {
    values[to] = v[source];
    values[to + ${half}u] = v[source + ${half}u];
  }`,
  });
}

/** Scores of a tile of keys, one a lane; then every lane sums its dimensions over the tile. */
const tileBody = (headDim: number, perLane: number, scale: number): string => `    let key = start + lane;
    var score = lowest;
    if (key <= position) {
      var dot = 0.0f;
      for (var d = 0u; d < ${headDim}u; d++) { dot += query[d] * keys[base + key * ${headDim}u + d]; }
      score = dot * ${f32(scale)};
    }
    let next = max(best, maxOf(lane, score));
    let weight = select(0.0f, exp(score - next), key <= position);
    weights[lane] = weight;
    let rescale = exp(best - next);
    total = total * rescale + sumOf(lane, weight);
    let count = min(${workgroupSize}u, position + 1u - start);
    for (var i = 0u; i < ${perLane}u; i++) {
      let d = lane + i * ${workgroupSize}u;
      if (d < ${headDim}u) {
        var sum = 0.0f;
        for (var j = 0u; j < count; j++) { sum += weights[j] * values[base + (start + j) * ${headDim}u + d]; }
        mixed[i] = mixed[i] * rescale + sum;
      }
    }
    best = next;
    workgroupBarrier();`;

export function attendWgsl(op: Heads & Pick<Attention, "scale" | "window">): string {
  const { heads, kvHeads, headDim, scale, window } = op;
  const perLane = Math.ceil(headDim / workgroupSize);
  const first = window > 0 ? `select(0u, position - ${window - 1}u, position >= ${window}u)` : "0u";
  return shader({
    storage: [reads("past", "i32"), reads("rotated"), reads("keys"), reads("values"), writes("out")],
    declarations: `${reduction("sumOf", (a, b) => `${a} + ${b}`)}${reduction("maxOf", (a, b) => `max(${a}, ${b})`)}const lowest = -3.0e38f;
var<workgroup> query: array<f32, ${headDim}>;
var<workgroup> weights: array<f32, ${workgroupSize}>;
`,
    groups: `params.rows * ${heads}u`,
    body: `  let row = group / ${heads}u;
  let head = group % ${heads}u;
${positionOf}
  let base = ((params.firstSlot + sequence) * ${kvHeads}u + head / ${heads / kvHeads}u) * params.context * ${headDim}u;
  for (var d = lane; d < ${headDim}u; d += ${workgroupSize}u) { query[d] = rotated[group * ${headDim}u + d]; }
  workgroupBarrier();
  var mixed: array<f32, ${perLane}>;
  var best = lowest;
  var total = 0.0f;
  for (var start = ${first}; start <= position; start += ${workgroupSize}u) {
${tileBody(headDim, perLane, scale)}
  }
  for (var i = 0u; i < ${perLane}u; i++) {
    let d = lane + i * ${workgroupSize}u;
    if (d < ${headDim}u) { out[group * ${headDim}u + d] = mixed[i] / total; }
  }`,
  });
}

export const lowerAttention: Lower<Attention> = (op) => {
  const width = op.heads * op.headDim;
  const pairs = ((op.heads + 2 * op.kvHeads) * op.headDim) / 2;
  const rotated = `${op.q} rotated for ${op.out}`;
  const keys = { kind: "kv", layer: op.layer, part: "keys" } as const;
  const values = { kind: "kv", layer: op.layer, part: "values" } as const;
  const past = { kind: "past" } as const;
  return {
    dispatches: [
      {
        label: "rotate and append",
        wgsl: appendWgsl(op),
        bindings: [past, value(op.q), value(op.k), value(op.v), { kind: "rope", rope: op.rope }, value(rotated), keys, values],
        groups: (rows) => flatGroups(rows * pairs),
      },
      {
        label: "attend",
        wgsl: attendWgsl(op),
        bindings: [past, value(rotated), keys, values, value(op.out)],
        groups: (rows) => rows * op.heads,
      },
    ],
    uploads: {},
    written: { [rotated]: width, [op.out]: width },
  };
};
