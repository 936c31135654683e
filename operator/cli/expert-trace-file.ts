// Files of expert traces: gzip JSON of runtime/experts/replay/trace.ts.
import { readFile, stat } from "node:fs/promises";
import { gunzipSync, gzipSync, constants as zlib } from "node:zlib";
import { AppError } from "../../crds/common.ts";
import { type ExpertTrace, expertTraceText, parseExpertTrace, traceCharsMax } from "../../runtime/experts/replay/trace.ts";
import { type OutputFile, writeOutput } from "./output-file.ts";

const fileBytesMax = 512 * 2 ** 20;
const start = '{"kind":"enodia expert trace"';

export const expertTraceOutput = (path: string, overwrite: boolean): OutputFile => ({
  path,
  option: "--out",
  kind: "an expert trace",
  isOurs(head) {
    try {
      return (
        gunzipSync(head, { finishFlush: zlib.Z_SYNC_FLUSH, maxOutputLength: traceCharsMax }).toString("latin1", 0, start.length) === start
      );
    } catch {
      return false;
    }
  },
  overwrite,
});

export const writeExpertTrace = (file: OutputFile, trace: ExpertTrace): Promise<void> =>
  writeOutput(file, gzipSync(expertTraceText(trace)));

/** Throws AppError `InvalidTrace` that names the file. */
export async function readExpertTrace(path: string): Promise<ExpertTrace> {
  const refused = (why: string, cause?: unknown) =>
    new AppError(`${path}: ${why}; record one by: enodia model trace`, { code: "InvalidTrace", cause });
  const { size } = await stat(path).catch((cause) => {
    throw refused(String(cause), cause);
  });
  if (size > fileBytesMax) throw refused(`has ${size} bytes, more than ${fileBytesMax}`);
  let text: string;
  try {
    text = gunzipSync(await readFile(path), { maxOutputLength: traceCharsMax }).toString();
  } catch (cause) {
    throw refused(cause instanceof RangeError ? `holds more than ${traceCharsMax} characters` : "is no whole gzip", cause);
  }
  return parseExpertTrace(text);
}
