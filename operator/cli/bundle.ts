// The entries of a support archive after redaction (redact.ts), and a page about them. Pure.

import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { type Header, type Pack, pack } from "tar-stream";
import type { KubeObject } from "../kube/kube.ts";
import type { Unread } from "../views/findings/finding.ts";
import type { Subject } from "./log-subject.ts";
import { redacted, redactedLine, scrubbedText } from "./redact.ts";

/** Beyond this the longest logs are left out. */
const archiveBytesMax = 64 * 1024 * 1024;

export interface BundleFacts {
  readonly kind: Subject["kind"];
  readonly namespace: string;
  readonly name: string;
  readonly version: string;
  readonly now: Date;
  /** Keys are file names without extension. */
  readonly objects: Readonly<Record<string, readonly KubeObject[]>>;
  /** Outputs of commands by file name. */
  readonly texts: Readonly<Record<string, string>>;
  /** Per pod, with the kubelet's times. */
  readonly logs: Readonly<Record<string, readonly string[]>>;
  readonly metrics: Readonly<Record<string, string>>;
  readonly unread: readonly Unread[];
}

const pageOf = ({ kind, namespace, name, version, now, unread }: BundleFacts, left: readonly string[]): string =>
  [
    `Support archive of ${kind} ${namespace}/${name}, made by enodia ${version} at ${now.toISOString()}.`,
    "",
    "objects/   objects of the cluster, each with the fields of an allow-list only",
    "logs/      log lines of gateways, workers, weight servers, downloaders, training pods and operator; texts in unknown fields are left out",
    "metrics/   metrics of these processes",
    "status.txt and doctor.txt are what these commands print.",
    "",
    "Not in it: Secrets, ConfigMaps, prompts and answers (they are not logged), values of environment variables that are not Enodia's own,",
    "annotations and labels of others, and logs of other containers. Texts lose what looks like a credential. Look through it all the same.",
    ...(unread.length > 0 ? ["", "Could not be read:", ...unread.map(({ what, why }) => `  ${what}: ${scrubbedText(why)}`)] : []),
    ...(left.length > 0
      ? ["", `Left out, since the archive has at most ${archiveBytesMax} bytes:`, ...left.map((path) => `  ${path}`)]
      : []),
    "",
  ].join("\n");

/** Sorted by name, below one folder. */
export function bundleEntries(facts: BundleFacts): TarEntry[] {
  const files = new Map<string, string>();
  for (const [file, objects] of Object.entries(facts.objects)) {
    const shown = objects.flatMap((object) => redacted(object) ?? []);
    files.set(`objects/${file}.json`, `${JSON.stringify(shown, null, 1)}\n`);
  }
  for (const [file, text] of Object.entries(facts.texts)) files.set(file, `${scrubbedText(text)}\n`);
  for (const [pod, text] of Object.entries(facts.metrics)) files.set(`metrics/${pod}.txt`, ownMetrics(text));
  for (const [pod, lines] of Object.entries(facts.logs)) files.set(`logs/${pod}.log`, `${lines.map(redactedLine).join("\n")}\n`);
  const left = tooMuch(files);
  for (const path of left) files.delete(path);
  files.set("README.txt", pageOf(facts, left));
  return [...files.entries()].sort(([a], [b]) => a.localeCompare(b)).map(([path, text]) => entryOf(`enodia-${facts.name}/${path}`, text));
}

function tooMuch(files: ReadonlyMap<string, string>): string[] {
  const sizes = [...files].map(([path, text]) => ({ path, size: Buffer.byteLength(text) }));
  let total = sizes.reduce((sum, { size }) => sum + size, 0);
  const left: string[] = [];
  for (const { path, size } of sizes.filter(({ path }) => path.startsWith("logs/")).sort((a, b) => b.size - a.size)) {
    if (total <= archiveBytesMax) break;
    total -= size;
    left.push(path);
  }
  return left;
}

const ownMetrics = (text: string): string =>
  text
    .split("\n")
    .filter((line) => line.startsWith("enodia_") || line.startsWith("# HELP enodia_") || line.startsWith("# TYPE enodia_"))
    .join("\n");

function entryOf(path: string, text: string): TarEntry {
  const content = Buffer.from(text);
  return { path, mode: 0o600, size: content.byteLength, content };
}

export interface TarEntry {
  /** Relative; a folder's ends with "/". */
  readonly path: string;
  readonly mode: number;
  readonly size: number;
  readonly linkTarget?: string;
  /** A local file. */
  readonly source?: string;
  readonly content?: Uint8Array;
}

const readBytes = 1024 * 1024;

/** Throws when a source has another size than its entry. */
export async function* tarStream(entries: Iterable<TarEntry>): AsyncGenerator<Uint8Array> {
  const archive = pack();
  const written = writeAll(archive, entries).catch((error: Error) => archive.destroy(error));
  yield* archive as AsyncIterable<Uint8Array>;
  await written;
}

async function writeAll(archive: Pack, entries: Iterable<TarEntry>): Promise<void> {
  for (const entry of entries) {
    if (entry.source === undefined) archive.entry(headerOf(entry), Buffer.from(entry.content ?? []));
    else await pipeline(createReadStream(entry.source, { highWaterMark: readBytes }), archive.entry(headerOf(entry)));
  }
  archive.finalize();
}

/** Owner and time are always 0. */
function headerOf({ path, mode, size, linkTarget }: TarEntry): Partial<Header> & { readonly name: string } {
  const type = linkTarget !== undefined ? "symlink" : path.endsWith("/") ? "directory" : "file";
  return {
    name: path,
    mode,
    size: type === "file" ? size : 0,
    type,
    mtime: new Date(0),
    uid: 0,
    gid: 0,
    ...(linkTarget === undefined ? {} : { linkname: linkTarget }),
  };
}
