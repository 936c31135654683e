// Checks the disk space, downloads a model's files over a bounded number of connections, and verifies each.
import { statfs } from "node:fs/promises";
import { AppError } from "../../../crds/common.ts";
import type { RemoteFile } from "./download-source.ts";
import type { Http } from "./http.ts";
import { FileInPieces, type Piece } from "./pieces.ts";
import type { Ask } from "./request.ts";

const connectionsDefault = 8;
const hashTriesMax = 2;

export interface FilesOptions {
  readonly files: readonly RemoteFile[];
  readonly dir: string;
  readonly ask: (file: RemoteFile) => Promise<Ask>;
  readonly http: Http;
  /** Ends the other requests after a failure. */
  readonly stop: () => void;
  readonly connections?: number;
  /** Disk space needed beside the download. */
  readonly spareBytes?: number;
  /** Total bytes, and those that are already there. */
  readonly onStart: (total: number, there: number) => void;
  readonly onBytes: (bytes: number) => void;
  /** Tests set it. */
  readonly pieceBytes?: number;
}

/** Resolves once all files are verified. After an error the next run resumes. */
export async function downloadFiles(options: FilesOptions): Promise<void> {
  const { files, dir, spareBytes = 0, onStart } = options;
  const open: FileInPieces[] = [];
  try {
    for (const file of files) {
      const opened = await FileInPieces.open(file, dir, options.pieceBytes);
      if (opened) open.push(opened);
    }
    const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    const left = open.reduce((sum, { missingBytes }) => sum + missingBytes, 0);
    await checkSpace(dir, left + spareBytes);
    onStart(total, total - left);
    await downloadAll(open, options);
  } finally {
    for (const file of open) await file.close();
  }
}

async function downloadAll(open: readonly FileInPieces[], options: FilesOptions): Promise<void> {
  const connections = options.connections ?? connectionsDefault;
  const queue = piecesOf(open);
  const left = new Map(open.map((file) => [file, file.missingCount]));
  const failures: unknown[] = [];
  const fail = (caught: unknown): void => {
    failures.push(caught);
    options.stop();
  };
  const download = async (): Promise<void> => {
    for (let next = queue.next(); !next.done && failures.length === 0; next = queue.next()) {
      const { file, piece } = next.value;
      await downloadPiece(file, piece, options);
      const count = (left.get(file) ?? 1) - 1;
      left.set(file, count);
      if (count === 0) await finish(file, options);
    }
  };
  // These are empty or already complete.
  const ready = open.filter(({ missingCount }) => missingCount === 0).map((file) => finish(file, options));
  await Promise.all([...ready, ...Array.from({ length: connections }, download)].map((each) => each.catch(fail)));
  if (failures.length > 0) throw failures[0];
}

/** A fixed snapshot: pieces that finish later are already assigned. */
function* piecesOf(open: readonly FileInPieces[]): Generator<{ readonly file: FileInPieces; readonly piece: Piece }> {
  for (const file of open) for (const piece of file.missing()) yield { file, piece };
}

async function downloadPiece(file: FileInPieces, piece: Piece, { ask, http, onBytes }: FilesOptions): Promise<void> {
  const { bytes: of, etag } = file.file;
  await http.range(
    () => ask(file.file),
    { from: piece.from, to: piece.to, of, etag },
    async (chunk, at) => {
      await file.write(chunk, at);
      onBytes(chunk.length);
    },
  );
  await file.done(piece);
}

/** One wrong hash may be a transfer fault; the second comes from the source. */
async function finish(file: FileInPieces, options: FilesOptions): Promise<void> {
  try {
    await file.finish();
  } catch (caught) {
    const error = AppError.from(caught);
    if (error.code !== "DigestMismatch") throw error;
    await again(file, options, error);
  }
}

async function again({ file }: FileInPieces, options: FilesOptions, first: AppError): Promise<void> {
  let error = first;
  for (let tries = 2; tries <= hashTriesMax; tries++) {
    const opened = await FileInPieces.open(file, options.dir, options.pieceBytes);
    if (!opened) return;
    try {
      options.onBytes(-file.bytes);
      for (const piece of opened.missing()) await downloadPiece(opened, piece, options);
      return await opened.finish();
    } catch (caught) {
      error = AppError.from(caught);
      if (error.code !== "DigestMismatch") throw error;
    } finally {
      await opened.close();
    }
  }
  throw new AppError(`${error.message}; ${hashTriesMax} downloads had it wrong, so that the source is`, { code: error.code, cause: error });
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

async function checkSpace(dir: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  const free = bavail * bsize;
  if (bytes <= free) return;
  throw new AppError(
    `the disk has ${gigabytes(free)} free and ${gigabytes(bytes)} are needed: enlarge the claim, or delete what nobody needs in it`,
    { code: "NotEnoughSpace", operation: "downloading a model" },
  );
}
