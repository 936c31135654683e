// The trace format (operator/docs/placement.md): gzip or plain JSON {name, windows, layers, experts, counts[, layerExperts]}, counts as
// base64 of little-endian uint32 [windows][layers][experts].
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { planBounds } from "../../../crds/plan.ts";
import { describeGrid, type ExpertGrid, expertsIn, gridOf } from "../../../runtime/placement/grid.ts";

export interface Trace extends ExpertGrid {
  readonly name: string;
  readonly windows: number;
  readonly counts: Uint32Array;
}

/** 256 MiB of counts: 4,500 windows at 58 x 256. */
const cellsMax = 64 * 1024 * 1024;
const textBytesMax = 500 * 1024 * 1024;

const schema = z.object({
  name: z.string().max(256),
  windows: z.int().min(1),
  layers: z.int().min(1).max(planBounds.layers),
  experts: z.int().min(1).max(planBounds.experts),
  layerExperts: z.array(z.int().min(0).max(planBounds.experts)).max(planBounds.layers).optional(),
  counts: z.string(),
});

/** Parses a file, compressed or not; throws AppError `InvalidTrace` that names the field. */
export async function decodeTrace(bytes: Uint8Array): Promise<Trace> {
  const text = new TextDecoder("utf-8").decode(await unpack(bytes));
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw invalid("neither JSON nor gzip of JSON", cause);
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw invalid(z.prettifyError(parsed.error), parsed.error);
  const { name, windows, layers, experts, layerExperts, counts } = parsed.data;
  const trace: Trace = {
    name,
    windows,
    ...gridIn(layers, experts, layerExperts),
    counts: numbers(counts, windows * layers * experts, "counts", "windows x layers x experts"),
  };
  checkCells(trace);
  return trace;
}

/** The size for people: "32 layers x 8 experts", "4 layers of 0 to 6 experts". */
export function sizeText(trace: ExpertGrid): string {
  return trace.layerExperts === undefined ? `${trace.layers} layers x ${trace.experts} experts` : describeGrid(trace);
}

function gridIn(layers: number, experts: number, layerExperts: readonly number[] | undefined): ExpertGrid {
  if (layerExperts === undefined) return { layers, experts };
  const grid = gridOf(layerExperts);
  if (grid.layers === layers && grid.experts === experts) return grid;
  throw invalid(`layerExperts: ${grid.layers} layers of up to ${grid.experts} experts, not ${layers} of up to ${experts}`);
}

function checkCells(trace: Trace): void {
  if (trace.layerExperts === undefined) return;
  const { counts, layers, experts } = trace;
  for (let row = 0; row * experts < counts.length; row++) {
    const [layer, has] = [row % layers, expertsIn(trace, row % layers)];
    const cell = counts.subarray(row * experts + has, (row + 1) * experts).findIndex((count) => count > 0);
    if (cell >= 0) throw invalid(`counts: layer ${layer} has ${has} experts, and expert ${has + cell} was chosen`);
  }
}

export async function encodeTrace(trace: Trace): Promise<Uint8Array> {
  const { counts, ...sizes } = trace;
  const text = JSON.stringify({ ...sizes, counts: base64(counts) });
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Counts of one window, [layers * experts], as a view. */
export function windowOf(trace: Trace, window: number): Uint32Array {
  const cells = trace.layers * trace.experts;
  return trace.counts.subarray(window * cells, (window + 1) * cells);
}

async function unpack(bytes: Uint8Array): Promise<Uint8Array> {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of new Blob([bytes.slice()]).stream().pipeThrough(new DecompressionStream("gzip"))) {
      size += chunk.byteLength;
      if (size > textBytesMax) throw invalid(`more than ${textBytesMax} bytes of text`);
      chunks.push(chunk);
    }
  } catch (cause) {
    throw cause instanceof AppError ? cause : invalid("its gzip is damaged or cut off", cause);
  }
  return Buffer.concat(chunks);
}

function numbers(text: string, cells: number, field: string, product: string): Uint32Array {
  if (cells > cellsMax) throw invalid(`${field}: ${cells} numbers, at most ${cellsMax}`);
  const bytes = Buffer.from(text, "base64"); // This skips invalid base64, so the length check validates it.
  if (bytes.byteLength !== cells * 4) throw invalid(`${field}: ${bytes.byteLength} bytes, expected ${cells * 4} = ${product} x 4`);
  const out = new Uint32Array(cells);
  for (let i = 0; i < cells; i++) out[i] = bytes.readUInt32LE(i * 4);
  return out;
}

function base64(values: Uint32Array): string {
  const bytes = Buffer.alloc(values.length * 4);
  for (let i = 0; i < values.length; i++) bytes.writeUInt32LE(values[i] as number, i * 4);
  return bytes.toString("base64");
}

function invalid(what: string, cause?: unknown): AppError {
  return new AppError(`trace: ${what}`, { code: "InvalidTrace", operation: "reading a trace", cause });
}
