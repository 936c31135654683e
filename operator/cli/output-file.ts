// Opens files that commands write: new ones, or earlier outputs of the same kind. DECISIONS.md 7.
import { constants, type Stats } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { gunzipSync, constants as zlib } from "node:zlib";
import { AppError } from "../../crds/common.ts";

/** Bytes that identify a file's kind. */
const headBytes = 64 * 1024;

export interface OutputFile {
  readonly path: string;
  /** The option in messages: "--out". */
  readonly option: string;
  /** The kind in words. */
  readonly kind: string;
  isOurs(head: Buffer): boolean;
  /** False: also refuses files of the same kind. */
  readonly overwrite: boolean;
  readonly mode?: number;
}

export const traceOutput = (path: string, overwrite = false): OutputFile => ({
  path,
  option: "--out",
  kind: "a trace",
  isOurs: isTrace,
  overwrite,
});

/** Sizes come first in a trace and are short. */
function isTrace(head: Buffer): boolean {
  try {
    const packed = head[0] === 0x1f && head[1] === 0x8b;
    const text = packed ? gunzipSync(head, { finishFlush: zlib.Z_SYNC_FLUSH, maxOutputLength: 2048 * headBytes }) : head;
    return /^\{[^{}]*"windows":\d+[^{}]*"counts":"/.test(text.toString("latin1", 0, headBytes));
  } catch {
    return false;
  }
}

async function headOf(path: string): Promise<Buffer> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(headBytes), 0, headBytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

/** Pipes and terminals hold nothing to lose. */
const keepsNothing = (info: Stats): boolean => info.isFIFO() || info.isCharacterDevice();

/** True when a file would be replaced. Throws AppError `NotReplaceable` or `AlreadyExists`. */
export async function checkOutput({ path, option, kind, isOurs, overwrite }: OutputFile): Promise<boolean> {
  const info = await stat(path).catch(() => undefined);
  if (!info) return false;
  if (keepsNothing(info)) return true;
  if (!info.isFile() || !isOurs(await headOf(path))) {
    throw new AppError(
      `${option}: cannot write ${path}: it is there and is not ${kind}; name another file, or move this one away yourself`,
      {
        code: "NotReplaceable",
      },
    );
  }
  if (!overwrite)
    throw new AppError(`${option}: ${path} exists already; pass --overwrite to replace it, or name another file`, {
      code: "AlreadyExists",
    });
  return true;
}

/** Truncates the file. */
export async function openOutput(file: OutputFile): Promise<FileHandle> {
  const replaces = await checkOutput(file);
  return open(file.path, replaces ? "w" : "wx", file.mode).catch((cause: unknown) => {
    throw new AppError(`${file.option}: cannot write ${file.path}: ${String(cause)}`, { code: "WriteFailed", cause });
  });
}

export async function writeOutput(file: OutputFile, content: string | Uint8Array): Promise<void> {
  const handle = await openOutput(file);
  try {
    await handle.writeFile(content);
  } catch (cause) {
    throw new AppError(`${file.option}: cannot write ${file.path}: ${String(cause)}`, { code: "WriteFailed", cause });
  } finally {
    await handle.close();
  }
}
