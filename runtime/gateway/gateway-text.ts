// The gateway's tokenizer, fetched from a rank at the start (DECISIONS.md 7).
import { mkdir, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { GatewaySettings } from "../../crds/process.ts";
import { type FileEntry, textFiles } from "../net/file-lists.ts";
import { newPart, readList, readFile as readListed } from "../net/file-reads.ts";
import type { Network } from "../net/grpc.ts";
import type { Identity, Member } from "../net/mapping.ts";
import type { ReadLink } from "../net/read-link.ts";
import { serverNames, type TlsSource } from "../net/tls.ts";
import type { Health } from "../observe/health.ts";
import type { Log } from "../observe/log.ts";
import type { TextModel } from "../text/text-model.ts";
import { openTextModel } from "../text/text-thread.ts";
import type { Readiness } from "./routing/members.ts";
import { textSources } from "./routing/text-sources.ts";
import type { WorkerPool } from "./routing/worker-pool.ts";

/** Milliseconds: a new membership shortens the pause between rounds, but not below `least`. */
const againMs = { least: 250, most: 5_000 };

interface TextStart extends Pick<TextFetch, "identity" | "tls" | "network" | "log"> {
  readonly config: GatewaySettings;
  /** Tests replace the fetched one. */
  readonly textModel: TextModel | undefined;
  readonly health: Health;
  readonly pool: WorkerPool;
  readonly readiness: Readiness;
}

/** `maxContext` never exceeds the model's own limit. */
export async function openText({ config, health, pool, readiness, ...start }: TextStart, opened: AsyncDisposableStack) {
  if (start.textModel) return { textModel: start.textModel, maxContext: config.maxContext };
  const { identity, tls, network, log } = start;
  const { namespace, deployment, textDir: dir } = config;
  const never = new AbortController().signal;
  let logged = "";
  const digest = await fetchText({
    ...{ identity, namespace, deployment, tls, network, dir, log },
    members: () => pool.membership()?.members,
    changed: (timeoutMs) => pool.changed(timeoutMs, never),
    waits: (reason) => {
      if (reason !== logged) log.info({ reason }, "not ready");
      logged = reason;
      health.notReady("text", reason);
    },
  });
  const textModel = await openTextModel(dir);
  opened.defer(() => textModel.close());
  readiness.hasText(digest);
  return { textModel, maxContext: Math.min(config.maxContext, await modelContext(dir)) };
}

const configSchema = z.looseObject({ max_position_embeddings: z.number().int().min(1).optional() });

/** Infinity when the config has no limit. Throws `BadModel` on a broken config.json. */
async function modelContext(dir: string): Promise<number> {
  const path = join(dir, "config.json");
  try {
    return configSchema.parse(JSON.parse(await readFile(path, "utf8"))).max_position_embeddings ?? Number.POSITIVE_INFINITY;
  } catch (cause) {
    const why = cause instanceof z.ZodError ? z.prettifyError(cause) : cause instanceof Error ? cause.message : String(cause);
    throw new AppError(`${path}: ${why}; import the model again`, { code: "BadModel", operation: "reading the model's limits", cause });
  }
}

export interface TextFetch {
  readonly identity: Identity;
  readonly namespace: string;
  readonly deployment: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connectReads">;
  /** Undefined while no membership is known. */
  readonly members: () => readonly Member[] | undefined;
  readonly changed: (timeoutMs: number) => Promise<void>;
  /** The folder is emptied first. */
  readonly dir: string;
  readonly waits: (reason: string) => void;
  readonly log: Log;
}

/** Returns the digest of the files. */
export async function fetchText(options: TextFetch): Promise<string> {
  for (let round = 0; ; round++) {
    const known = options.members();
    const reasons: string[] = known === undefined ? ["no membership known yet"] : [];
    const { ranks, digest } = textSources(known ?? []);
    if (known !== undefined && ranks.length === 0) reasons.push("no rank is there");
    for (const member of ranks) {
      try {
        const got = await fromRank(member, digest, options);
        options.log.info({ rank: member.rank, digest: got }, "tokenizer fetched");
        return got;
      } catch (caught) {
        const error = AppError.from(caught, "fetching the tokenizer");
        options.log.debug({ rank: member.rank, reason: error.message, code: error.code }, "a rank did not give the tokenizer");
        reasons.push(`rank ${member.rank}: ${error.message}`);
      }
    }
    options.waits(`waits for the tokenizer from a rank: ${reasons.join("; ")}`);
    await sleep(againMs.least);
    await options.changed(Math.min(againMs.most, againMs.least * 2 ** Math.min(round, 8)));
  }
}

async function fromRank({ rank, address }: Member, digest: string | undefined, options: TextFetch): Promise<string> {
  const { identity: self, namespace, deployment, tls, network, dir } = options;
  const link = network.connectReads({ address, serverName: serverNames.rank(rank, namespace, deployment), tls, self });
  try {
    const list = await readList(link, textFiles, "");
    if (digest !== undefined && list.digest !== digest)
      throw new AppError("its files are not those that most ranks have", { code: "DigestMismatch" });
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { recursive: true });
    for (const file of list.files) await readInto(join(dir, file.name), file, link);
    return list.digest;
  } finally {
    link.close();
  }
}

async function readInto(path: string, file: FileEntry, link: ReadLink): Promise<void> {
  const unfit = (why: string) => new AppError(`${file.name}: ${why}`, { code: "CorruptFile", operation: "fetching the tokenizer" });
  const out = await open(path, "w");
  try {
    await readListed(link, { file, part: newPart(file.bytes), out, unfit, giver: "rank" });
  } finally {
    await out.close();
  }
}
