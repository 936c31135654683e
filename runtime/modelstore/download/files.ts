// All files of a model at once: pieces over a bounded number of connections, each file verified as it becomes whole, and whether the disk
// has room asked before the first byte. Shell.
import { statfs } from "node:fs/promises";
import { AppError } from "../../../crds/common.ts";
import type { Http } from "./http.ts";
import { FileInPieces, type Piece } from "./pieces.ts";
import type { Ask } from "./request.ts";
import type { RemoteFile } from "./source.ts";

const connectionsDefault = 8;
/** Times that a file is downloaded whose hash is not what the source says. */
const hashTriesMax = 2;

export interface FilesOptions {
  readonly files: readonly RemoteFile[];
  readonly dir: string;
  readonly ask: (file: RemoteFile) => Promise<Ask>;
  readonly http: Http;
  /** Called once one of them has failed: the requests of the others are ended. */
  readonly stop: () => void;
  readonly connections?: number;
  /** Bytes that the disk has to have free beside the download. */
  readonly spareBytes?: number;
  /** Told at the start of all bytes, and of those that are there. */
  readonly onStart: (total: number, there: number) => void;
  readonly onBytes: (bytes: number) => void;
  /** Size of pieces, for tests. */
  readonly pieceBytes?: number;
}

/** Resolves once all files are there and verified. The first error ends it; what is on the disk by then is gone on with next time. */
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
  const lanes = options.connections ?? connectionsDefault;
  const queue = piecesOf(open);
  const left = new Map(open.map((file) => [file, file.missingCount]));
  const failures: unknown[] = [];
  const fail = (caught: unknown): void => {
    failures.push(caught);
    options.stop();
  };
  const lane = async (): Promise<void> => {
    for (let next = queue.next(); !next.done && failures.length === 0; next = queue.next()) {
      const { file, piece } = next.value;
      await downloadPiece(file, piece, options);
      const count = (left.get(file) ?? 1) - 1;
      left.set(file, count);
      if (count === 0) await finish(file, options);
    }
  };
  // A file without bytes, or whose pieces all were there, has nothing to wait for.
  const ready = open.filter(({ missingCount }) => missingCount === 0).map((file) => finish(file, options));
  await Promise.all([...ready, ...Array.from({ length: lanes }, lane)].map((each) => each.catch(fail)));
  if (failures.length > 0) throw failures[0];
}

/** Those that are missing as this begins: a piece that is done meanwhile was handed out before. */
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

/** A hash that is wrong once may be a fault on the way; twice it is what the source has. */
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
