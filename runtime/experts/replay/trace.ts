// The format of expert traces: JSON of sizes, texts and arrays of base64 16-bit numbers. `enodia model trace` writes it.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { type ExpertGrid, expertsIn, gridOf } from "../../placement/grid.ts";
import type { AheadInput, Choice } from "../prefetch/predictor.ts";

const inputs: readonly AheadInput[] = ["same", "accelerated"];

interface Asked {
  readonly input: AheadInput;
  /** Layers with experts ahead: 1 = the next one. */
  readonly distance: number;
  /** [tokens][layers][width], no expert where no layer is so far ahead. */
  readonly ids: Uint16Array;
}

interface TracedText {
  readonly topic: string;
  /** Tokens that were computed at once, and tokens that followed one at a time. */
  readonly prompt: number;
  readonly generated: number;
}

export interface ExpertTrace {
  readonly modelDigest: string;
  readonly grid: ExpertGrid;
  readonly topK: number;
  /** Stored bytes of an expert of each layer. */
  readonly expertBytes: readonly number[];
  /** Milliseconds of one token in a layer, experts in memory: what a replay computes with unless it is told otherwise. */
  readonly layerMs: number;
  readonly texts: readonly TracedText[];
  /** [tokens][layers][topK], the texts' tokens in order, `noExpert` behind what a layer has. */
  readonly ids: Uint16Array;
  /** Experts of each row that routers ahead name. */
  readonly width: number;
  readonly asked: readonly Asked[];
}

export const noExpert = 0xffff;
/** Numbers of an array, and characters of all arrays together: a string of V8 has less than 2^29, and texts take a part. */
const idsMax = 128 * 2 ** 20;
const arrayCharsMax = 500 * 2 ** 20;
/** The most that a whole trace takes as JSON. */
export const traceCharsMax = 2 ** 29 - 24;
const charsPerId = 8 / 3;
const base64 = z.string().max(4 * Math.ceil((idsMax * 2) / 3));
const size = (most: number) => z.number().int().min(1).max(most);
const schema = z.object({
  kind: z.literal("enodia expert trace"),
  version: z.literal(1),
  modelDigest: z.string().max(128),
  layerExperts: z.array(z.number().int().min(0).max(4096)).min(1).max(1024),
  topK: size(64),
  expertBytes: z
    .array(
      z
        .number()
        .int()
        .min(0)
        .max(2 ** 40),
    )
    .min(1)
    .max(1024),
  layerMs: z.number().positive().max(60_000),
  texts: z
    .array(
      z.object({
        topic: z.string().min(1).max(64),
        prompt: size(2 ** 20),
        generated: z
          .number()
          .int()
          .min(0)
          .max(2 ** 20),
      }),
    )
    .min(1)
    .max(65_536),
  width: size(4096),
  ids: base64,
  asked: z.array(z.object({ input: z.enum(inputs), distance: z.number().int().min(1).max(8), ids: base64 })).max(16),
});

const invalid = (what: string): AppError => new AppError(`expert trace: ${what}`, { code: "InvalidTrace", operation: "reading a trace" });

export const tokensOf = (texts: readonly TracedText[]): number => texts.reduce((sum, { prompt, generated }) => sum + prompt + generated, 0);

interface TraceSizes {
  readonly layers: number;
  readonly topK: number;
  readonly width: number;
  /** Times that routers ahead are asked. */
  readonly asks: number;
}

/** Tokens that fit into a trace. */
export function traceTokensMax({ layers, topK, width, asks }: TraceSizes): number {
  const largest = layers * Math.max(topK, asks > 0 ? width : 0);
  return Math.floor(Math.min(idsMax / largest, arrayCharsMax / charsPerId / (layers * (topK + asks * width))));
}

/** Throws AppError `InvalidTrace` that names the field. */
export function parseExpertTrace(json: string): ExpertTrace {
  let read: unknown;
  try {
    read = JSON.parse(json);
  } catch {
    throw invalid("no JSON; record one by: enodia model trace");
  }
  const parsed = schema.safeParse(read);
  if (!parsed.success) throw invalid(z.prettifyError(parsed.error).replaceAll("\n", " "));
  const { layerExperts, ids, asked, kind: _kind, version: _version, ...rest } = parsed.data;
  const grid = gridOf(layerExperts);
  if (rest.expertBytes.length !== grid.layers) throw invalid(`expertBytes: of ${rest.expertBytes.length} layers, and not ${grid.layers}`);
  const cells = tokensOf(rest.texts) * grid.layers;
  const numbers = (field: string, text: string, width: number) => checked(field, unpacked(field, text, cells * width), grid.experts);
  return {
    ...rest,
    grid,
    ids: numbers("ids", ids, rest.topK),
    asked: asked.map((each, i) => ({ ...each, ids: numbers(`asked.${i}.ids`, each.ids, rest.width) })),
  };
}

/** Throws AppError `InvalidTrace` for more tokens than fit. */
export function expertTraceText({ grid, ids, asked, ...rest }: ExpertTrace): string {
  const [tokens, { topK, width }] = [tokensOf(rest.texts), rest];
  const most = traceTokensMax({ layers: grid.layers, topK, width, asks: asked.length });
  if (tokens > most) throw invalid(`texts: ${tokens} tokens, at most ${most}`);
  const layerExperts = Array.from({ length: grid.layers }, (_, layer) => expertsIn(grid, layer));
  const arrays = { ids: packed(ids), asked: asked.map((each) => ({ ...each, ids: packed(each.ids) })) };
  return JSON.stringify({ kind: "enodia expert trace", version: 1, ...rest, layerExperts, ...arrays });
}

function packed(values: Uint16Array): string {
  const bytes = Buffer.alloc(values.length * 2);
  for (const [i, value] of values.entries()) bytes.writeUInt16LE(value, i * 2);
  return bytes.toString("base64");
}

function unpacked(field: string, text: string, length: number): Uint16Array {
  if (length > idsMax) throw invalid(`${field}: ${length} numbers, at most ${idsMax}`);
  const bytes = Buffer.from(text, "base64");
  if (bytes.length !== length * 2) throw invalid(`${field}: ${bytes.length / 2} numbers, and not tokens x layers x width = ${length}`);
  return Uint16Array.from({ length }, (_, i) => bytes.readUInt16LE(i * 2));
}

function checked(field: string, ids: Uint16Array, experts: number): Uint16Array {
  const at = ids.findIndex((id) => id !== noExpert && id >= experts);
  if (at >= 0) throw invalid(`${field}: number ${at} is expert ${ids[at]} of ${experts}`);
  return ids;
}

/** Tokens that pass the layers together. */
export interface TracedStep {
  readonly tokens: readonly number[];
  readonly prompt: boolean;
}

/** Prompts first, then a token of each text at once, for so many texts at a time. */
export function stepsOf(texts: readonly TracedText[], batch: number): TracedStep[] {
  const steps: TracedStep[] = [];
  const range = (from: number, length: number) => Array.from({ length }, (_, i) => from + i);
  let from = 0;
  const placed = texts.map((text) => {
    const at = from;
    from += text.prompt + text.generated;
    return { ...text, from: at };
  });
  for (let first = 0; first < placed.length; first += batch) {
    const together = placed.slice(first, first + batch);
    for (const { from: at, prompt } of together) steps.push({ tokens: range(at, prompt), prompt: true });
    const most = Math.max(...together.map(({ generated }) => generated));
    for (let i = 0; i < most; i++) {
      const tokens = together.filter(({ generated }) => i < generated).map(({ from: at, prompt }) => at + prompt + i);
      steps.push({ tokens, prompt: false });
    }
  }
  return steps;
}

/** What a step's tokens chose at a layer with experts, and what routers ahead said of them. */
export function choiceOf({ grid, ids, topK, width, asked }: ExpertTrace, { tokens }: TracedStep, layer: number): Choice {
  const of = (from: Uint16Array, per: number) =>
    Int32Array.from({ length: tokens.length * per }, (_, i) => {
      const cell = (tokens[Math.floor(i / per)] as number) * grid.layers + layer;
      return from[cell * per + (i % per)] as number;
    });
  return {
    layer,
    topK,
    ids: of(ids, topK),
    ahead(to, input) {
      let distance = 0;
      for (let at = layer + 1; at <= to; at++) if (expertsIn(grid, at) > 0) distance += 1;
      const found = asked.find((each) => each.input === input && each.distance === distance);
      return found && { ids: of(found.ids, width), width };
    },
  };
}
