// Downloads a model into a store in the claim, through a resumable work folder.
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { DownloadPhase } from "../../../crds/download.ts";
import type { CodecName } from "../../../crds/names.ts";
import { codecFor } from "../../weights/codecs/index.ts";
import { openStore } from "../../weights/store-reader.ts";
import { type DownloadOptions, downloadModel } from "../download/index.ts";
import { importModel } from "../import.ts";

export interface DeliverOptions extends Pick<DownloadOptions, "uri" | "secret" | "http" | "connections" | "pieceBytes"> {
  /** The work folder is on the same file system. */
  readonly target: string;
  readonly work: string;
  readonly codec: CodecName;
  /** Bounds download and store together; default: the disk. */
  readonly capacityBytes?: number | undefined;
  readonly events: DeliveryEvents;
}

interface DeliveryEvents {
  phase(phase: DownloadPhase): void;
  listed(revision: string | undefined): void;
  start(total: number, there: number): void;
  add(bytes: number): void;
  say(message: string): void;
}

export interface Delivered {
  readonly revision: string | undefined;
  readonly modelDigest: string;
}

/** Minimum bits per value, as a store may be larger than its download. */
const sourceBits = 16;
/** Overhead of the index and padding. */
const slack = 1.05;

export async function deliver(options: DeliverOptions): Promise<Delivered> {
  const { target, work, events } = options;
  const there = await storeAt(target, options);
  if (there !== undefined) {
    await clear(work);
    return { revision: undefined, modelDigest: there };
  }
  events.phase("Listing");
  await mkdir(work, { recursive: true });
  await clearUnfinished(work);
  const out = join(work, storeName);
  const finished = await storeAt(out, options); // an earlier run finished it but did not move it
  const downloaded = await downloadModel({
    ...pick(options),
    codecs: [options.codec],
    // A downloaded store is moved and needs no extra space.
    spareBytes: (bytes, kind) => {
      const storeBytes = bytes * slack * Math.max(1, codecFor(options.codec).denseBits / sourceBits);
      const spare = kind === "store" || finished !== undefined ? 0 : storeBytes;
      checkCapacity(bytes, spare, options);
      return spare;
    },
    onListed: (revision) => events.listed(revision),
    onStart: (total, have) => events.start(total, have),
    onBytes: (bytes) => events.add(bytes),
  });
  events.phase("Importing");
  if (downloaded.kind !== "store" && finished === undefined) await makeStore(downloaded.path, out, options);
  const made = downloaded.kind === "store" ? downloaded.path : out;
  const digest = await storeAt(made, options);
  if (digest === undefined) throw new AppError(`${options.uri}: is no model store`, { code: "UnsupportedModel" });
  await moveTo(made, target, options);
  await clear(work);
  events.phase("Done");
  return { revision: downloaded.revision, modelDigest: digest };
}

const pick = ({ uri, work, secret, http, connections, pieceBytes, events }: DeliverOptions) => ({
  uri,
  work,
  secret,
  http: { onWait: (message: string) => events.say(message), ...http },
  ...(connections !== undefined && { connections }),
  ...(pieceBytes !== undefined && { pieceBytes }),
});

/** Undefined without a store. Throws for a damaged one or a missing codec. */
async function storeAt(dir: string, { codec }: DeliverOptions): Promise<string | undefined> {
  if (!(await stat(dir).catch(() => undefined))) return undefined;
  const store = await openStore(dir);
  try {
    const { modelDigest, codecs } = store.index;
    if (codecs[codec] !== undefined) return modelDigest;
    throw new AppError(`${dir}: has not the codec ${codec}, it has ${Object.keys(codecs).join(", ")}`, { code: "UnsupportedModel" });
  } finally {
    await store.close();
  }
}

function checkCapacity(bytes: number, spare: number, { uri, capacityBytes }: DeliverOptions): void {
  if (capacityBytes === undefined || bytes + spare <= capacityBytes) return;
  const needed = `the download of ${Math.ceil(bytes)} bytes${spare > 0 ? ` and a store of up to ${Math.ceil(spare)} made of it` : ""}`;
  const remedy = `raise spec.model.cache.ephemeral.sizeLimit to ${Math.ceil((bytes + spare) / 2 ** 20)}Mi, or name a persistentVolumeClaim`;
  throw new AppError(`${uri}: ${needed} do not fit ${capacityBytes} bytes; ${remedy}`, { code: "CacheTooSmall" });
}

const storeName = "store";

/** Removes leftovers of other pods too, whose names differ; nobody else works in this folder. */
async function clearUnfinished(work: string): Promise<void> {
  for (const name of await readdir(work))
    if (name.startsWith(`.${storeName}.`)) await rm(join(work, name), { recursive: true, force: true });
}

async function makeStore(source: string, out: string, { work, codec, events }: DeliverOptions): Promise<void> {
  await importModel({ source, out, codecs: [codec], overwrite: false, cache: work, secrets: {} }, (line) => events.say(line));
}

/** Another deployment's download may have been faster; then its store is used. */
async function moveTo(made: string, target: string, options: DeliverOptions): Promise<void> {
  await mkdir(dirname(target), { recursive: true });
  try {
    await rename(made, target);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== "ENOTEMPTY" && code !== "EEXIST") throw cause;
    await storeAt(target, options);
  }
}

const clear = (work: string): Promise<void> => rm(work, { recursive: true, force: true });
