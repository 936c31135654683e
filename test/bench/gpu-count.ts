// What a decode step of one row asks of a device whose bits are free, counted and not timed, so that no GPU is needed: kernels of a layer
// beside llama.cpp's own graph of the same model, which its scheduler prints, and what is read back. Models are small ones in the layouts
// in which people publish them.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compileHead } from "../../runtime/engine/pass/head.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import { kernelsOf, looseBackend } from "../kit/devices/loose.ts";
import { modelOf } from "../kit/models/golden-files.ts";
import { published, writePublished } from "../kit/models/published-gguf.ts";
import { loadModel } from "../kit/models/small-engine.ts";
import { stepsOverRanks } from "../kit/ranks/steps-over-ranks.ts";
import { Peer } from "./llama/peer.ts";

/** Nodes of which ggml's CUDA backend makes one kernel for one row (ggml 0.21, ggml_cuda_try_fuse), the longest first, views and all. */
const fusions: readonly (readonly string[])[] = [
  "SIGMOID VIEW ADD ARGSORT VIEW GET_ROWS VIEW SUM_ROWS CLAMP DIV VIEW SCALE",
  "SOFT_MAX VIEW ARGSORT VIEW GET_ROWS VIEW SUM_ROWS CLAMP DIV VIEW",
  "ARGSORT VIEW GET_ROWS VIEW SOFT_MAX VIEW",
  "SOFT_MAX VIEW ARGSORT VIEW GET_ROWS",
  "MUL_MAT_ID ADD_ID MUL_MAT_ID ADD_ID SWIGLU_OAI",
  "RMS_NORM MUL ROPE VIEW SET_ROWS",
  "MUL_MAT_ID MUL_MAT_ID SWIGLU",
  "MUL_MAT MUL_MAT SWIGLU",
  "RMS_NORM MUL ROPE",
  "ROPE VIEW SET_ROWS",
  "RMS_NORM MUL",
  "MUL_MAT_ID ADD_ID",
  "MUL_MAT ADD",
].map((nodes) => nodes.split(" "));
/** Nodes in a row of which each adds to the one before are one kernel. */
const addsMost = 8;

export function kernelsWhenFused(nodes: readonly string[]): number {
  let kernels = 0;
  for (let at = 0; at < nodes.length; ) {
    const found = fusions.find((ops) => ops.every((op, i) => nodes[at + i] === op));
    let adds = 0;
    while (adds < addsMost && nodes[at + adds] === "ADD") adds += 1;
    kernels += nodes[at] === "VIEW" ? 0 : 1;
    at += found?.length ?? Math.max(1, adds);
  }
  return kernels;
}

/** The last layer's nodes of the last graph that llama.cpp printed, but for two that pick the rows of the output. It prints no views. */
export function lastLayerOf(printed: string): readonly string[] {
  const graph = printed.slice(printed.lastIndexOf("node #  0 ("));
  const nodes: { readonly op: string; readonly name: string }[] = [];
  for (const [, number, op = "", name = ""] of graph.matchAll(/^node #\s*(\d+) \(\s*(\S+)\):\s+(.+?) \(/gm)) {
    while (nodes.length < Number(number)) nodes.push({ op: "VIEW", name: "" });
    nodes.push({ op, name });
  }
  const ends = nodes.flatMap(({ name }, i) => (name.startsWith("l_out-") ? [i] : []));
  const own = nodes.slice((ends.at(-2) ?? 0) + 1, (ends.at(-1) ?? 0) + 1).map(({ op }) => op);
  const picks = own.findIndex((op, i) => op === "GET_ROWS" && own[i + 1] === op);
  return picks < 0 ? own : own.toSpliced(picks, 2);
}

/** ggml prints so much of a name. */
const printedLetters = 10;

async function theirs(path: string, vocab: number): Promise<readonly string[]> {
  const printsTo = `${path}.printed`;
  const peer = await Peer.start({ path, vocab, on: { kind: "cpu" }, log: () => {}, printsTo });
  try {
    await peer.decode({ texts: [[1, 2, 3, 4]], promptTokens: 3, tokens: 256, threads: 1 });
  } finally {
    await peer.close();
  }
  return lastLayerOf(readFileSync(printsTo, "utf8"));
}

async function ours(folder: string) {
  const { backend, work } = looseBackend();
  const checkpoint = await openCheckpoint(folder);
  try {
    const model = modelOf(folder, checkpoint);
    const { program } = model;
    const loaded = await loadModel(backend, model, { context: 256, kvType: "f16" });
    const [embed, head] = [
      await backend.compile(program.embed, await model.weights(program.embed)),
      await compileHead(backend, program, await model.weights(program.head)),
    ];
    const kv = { cache: loaded.kv, groups: [{ firstSlot: 0, batch: 1, tokens: 1, past: new Int32Array(1) }] };
    const layers = program.layers.length;
    await loaded.range.run({ x: new Float32Array(program.hidden), kv, from: layers - 1, to: layers });
    // A range copies the ids of its layers and sums its rows, whatever its layers are.
    const layer = (work.graphs.at(-1) ?? []).map((node) => (kernelsOf([node]).length === 0 ? "VIEW" : node.slice(0, printedLetters)));
    while (layer.at(-1) !== "ADD") layer.pop();
    for (const list of [work.graphs, work.reads]) list.length = 0;
    const range = backend.createRange(loaded.layers, { embed, head });
    await range.run({ x: new Int32Array(1), kv, from: 0, to: layers, head: { rows: [0], sharpness: new Float32Array(1) } });
    return { layer, vocab: program.vocab, reads: [...work.reads] };
  } finally {
    await checkpoint.close();
    await backend.close();
  }
}

/** Bytes of a layer of eight rows while another rank has half of the experts, from and to the device: by the host, and over ranks. */
async function overRanks(folder: string) {
  const [{ backend, work }, { backend: other }] = [looseBackend(), looseBackend()];
  const checkpoint = await openCheckpoint(folder);
  try {
    const rows = 8;
    const shared = {
      backend,
      other,
      model: modelOf(folder, checkpoint),
      context: 256,
      isHere: (_: number, expert: number) => expert % 2 === 0,
    };
    const { hidden, layers } = shared.model.program;
    const bytes: number[] = [];
    for (const holds of [false, true]) {
      const { step } = await stepsOverRanks({ ...shared, holds });
      for (const list of [work.reads, work.writes]) list.length = 0;
      await step([...Array(rows).keys()], [{ firstSlot: 0, batch: rows, tokens: 1, past: new Int32Array(rows) }], rows);
      const beside = (holds ? 2 : 1) * 4 * rows * hidden; // embeddings, and the last rows
      for (const [list, ends] of [
        [work.reads, beside],
        [work.writes, 0],
      ] as const)
        bytes.push(Math.round((list.reduce((sum, each) => sum + each, 0) - ends) / layers.length));
    }
    const [hostDown, hostUp, ranksDown, ranksUp] = bytes as [number, number, number, number];
    return { hostDown, ranksDown, hostUp, ranksUp };
  } finally {
    for (const each of [checkpoint, backend, other]) await each.close();
  }
}

/** llama.cpp takes a DeepSeek-V2 without projected queries for the one of 27 layers, and so reads no small one. */
const unread = "DeepSeek-V2";

interface CountRow {
  readonly model: string;
  /** Nodes of a layer that compute; those that ggml makes one kernel of are one in the next two. */
  readonly nodes: number;
  readonly llamaNodes: number;
  readonly fused: number;
  readonly llamaFused: number;
  /** The larger of both ratios. */
  readonly share: number;
  readonly ok: boolean;
  /** Of a token, from its id to its candidates: each is a wait for the device. */
  readonly reads: number;
  readonly bytesRead: number;
  /** Bytes of a layer of eight rows over two ranks, from and to the device; `host`: with rows that pass by the host. */
  readonly hostDown: number;
  readonly ranksDown: number;
  readonly hostUp: number;
  readonly ranksUp: number;
}

/** A row for each model; `most`: what a layer of ours may have of llama.cpp's kernels. */
export async function countRows(most = 1.1): Promise<readonly CountRow[]> {
  const rows: CountRow[] = [];
  for (const [model, make] of Object.entries(published)) {
    if (model.startsWith(unread)) continue;
    const folder = mkdtempSync(join(tmpdir(), "enodia-count-"));
    try {
      await writePublished(make(), folder);
      const own = await ours(join(folder, "hf"));
      const peer = await theirs(join(folder, "model.gguf"), own.vocab);
      const [nodes, llamaNodes] = [kernelsOf(own.layer).length, kernelsOf(peer).length];
      const [fused, llamaFused] = [kernelsWhenFused(own.layer), kernelsWhenFused(peer)];
      const share = Math.max(nodes / llamaNodes, fused / llamaFused);
      rows.push({
        model,
        ...{ nodes, llamaNodes, fused, llamaFused },
        ...{ share: Number(share.toFixed(2)), ok: share <= most },
        ...{ reads: own.reads.length, bytesRead: own.reads.reduce((sum, bytes) => sum + bytes, 0) },
        ...(await overRanks(join(folder, "hf"))),
      });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return rows;
}
