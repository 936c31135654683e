// matMul on the device: a thread computes four columns of four rows, weights read as [K][N] vectors. f32 and int4. Pure.
// A row's sum runs over K in order whatever the other rows are, so its bits do not depend on the batch.
import type { Op } from "../../../kernels/segment.ts";
import { blockSize, type PlainForm } from "../../../kernels/weights.ts";
import { matrixPanels, vectors, vectorWidth } from "../layout.ts";
import { type Lower, value, weightId } from "./lower.ts";
import { reads, type Storage, shader, workgroupSize, writes } from "./shader.ts";

export interface MatMulShape {
  readonly k: number;
  /** Columns of the whole output, and the part that this panel writes. */
  readonly n: number;
  readonly first: number;
  readonly columns: number;
}

/** Rows that share one read of the weights. */
const rowTile = 4;
const tileRows = Array.from({ length: rowTile }, (_, r) => r);

const accumulate = (weight: string, at: string, indent: string): string =>
  tileRows.map((r) => `${indent}sum${r} += x[from${r} + ${at}] * ${weight};`).join("\n");

function matMulShader({ k, n, first, columns }: MatMulShape, weights: readonly Storage[], loop: string): string {
  const n4 = vectors(columns);
  const columnGroups = Math.ceil(n4 / workgroupSize);
  return shader({
    storage: [reads("x"), ...weights, writes("out")],
    declarations: `fn store(row: u32, column: u32, sum: vec4<f32>) {
  if (row >= params.rows) { return; }
  for (var i = 0u; i < ${vectorWidth}u; i++) {
    if (column + i < ${columns}u) { out[row * ${n}u + ${first}u + column + i] = sum[i]; }
  }
}
`,
    groups: `((params.rows + ${rowTile - 1}u) / ${rowTile}u) * ${columnGroups}u`,
    body: `  let column = (group % ${columnGroups}u) * ${workgroupSize}u + lane;
  if (column >= ${n4}u) { return; }
  let row = (group / ${columnGroups}u) * ${rowTile}u;
  let last = params.rows - 1u;
${tileRows.map((r) => `  let from${r} = min(row + ${r}u, last) * ${k}u;\n  var sum${r} = vec4<f32>();`).join("\n")}
${loop}
${tileRows.map((r) => `  store(row + ${r}u, column * ${vectorWidth}u, sum${r});`).join("\n")}`,
  });
}

export function matMulF32Wgsl(shape: MatMulShape): string {
  return matMulShader(
    shape,
    [reads("weight", "vec4<f32>")],
    `  for (var k = 0u; k < ${shape.k}u; k++) {
    let w = weight[k * ${vectors(shape.columns)}u + column];
${accumulate("w", "k", "    ")}
  }`,
  );
}

/** w = (q - zero) * scale per block of 32 along K; a word holds eight values of one column, lowest bits first. */
export function matMulInt4Wgsl(shape: MatMulShape): string {
  const n4 = vectors(shape.columns);
  return matMulShader(
    shape,
    [reads("words", "vec4<u32>"), reads("scales", "vec4<f32>"), reads("zeros", "vec4<f32>")],
    `  for (var block = 0u; block < ${shape.k / blockSize}u; block++) {
    let scale = scales[block * ${n4}u + column];
    let zero = zeros[block * ${n4}u + column];
    for (var j = 0u; j < 4u; j++) {
      let word = words[(block * 4u + j) * ${n4}u + column];
      for (var i = 0u; i < 8u; i++) {
        let w = (vec4<f32>((word >> vec4<u32>(4u * i)) & vec4<u32>(15u)) - zero) * scale;
        let k = block * ${blockSize}u + j * 8u + i;
${accumulate("w", "k", "        ")}
      }
    }
  }`,
  );
}

const wgslOf: Readonly<Record<PlainForm, (shape: MatMulShape) => string>> = { f32: matMulF32Wgsl, int4: matMulInt4Wgsl };

export const lowerMatMul: Lower<Extract<Op, { op: "matMul" }>> = (op, context) => {
  const weight = context.weight(op.weight);
  const [n = 1, k = 1] = weight.shape;
  const panels = matrixPanels(weight, context.bindingBytes);
  const wgsl = wgslOf[weight.form];
  const id = (panel: number, part: number) => `${op.weight} columns ${panel}.${part}`;
  return {
    dispatches: panels.map(({ first, columns, parts }, i) => ({
      label: `matMul ${weight.form}`,
      wgsl: wgsl({ k, n, first, columns }),
      bindings: [value(op.x), ...parts.map((_, part) => weightId(id(i, part))), value(op.out)],
      groups: (rows) => Math.ceil(rows / rowTile) * Math.ceil(vectors(columns) / workgroupSize),
    })),
    uploads: Object.fromEntries(panels.flatMap(({ parts }, i) => parts.map((data, part) => [id(i, part), data]))),
    written: { [op.out]: n },
  };
};
