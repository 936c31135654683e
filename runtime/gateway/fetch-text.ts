// The model's text files, fetched from a rank into a folder of the gateway's own when it starts: it mounts no model. It waits as long as
// no rank has them for it, and says why. Not here: which ranks are asked (text-sources.ts), what the files become (text/).
import { mkdir, open, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { newPart, receive } from "../net/file-stream.ts";
import { TextFiles } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus, type Network } from "../net/grpc.ts";
import { type Identity, type Member, toSender } from "../net/mapping.ts";
import { whenReady } from "../net/ready.ts";
import type { ServiceClient } from "../net/service.ts";
import { fromTextList, type TextFile } from "../net/text-files.ts";
import { serverNames, type TlsSource } from "../net/tls.ts";
import type { Log } from "../observe/log.ts";
import { textSources } from "./text-sources.ts";

/** Between two rounds of asking, whatever happens; and at most, where no membership tells of a change. */
const againMs = { least: 250, most: 5_000 };
const connectTimeoutMs = 2_000;
const listTimeoutMs = 5_000;
/** The time that one file may take. */
const readTimeoutMs = 120_000;

export interface TextFetch {
  readonly identity: Identity;
  readonly namespace: string;
  readonly deployment: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connect">;
  /** Undefined while no membership is known. */
  readonly members: () => readonly Member[] | undefined;
  /** Resolves when the membership changes, or after so many milliseconds. */
  readonly changed: (timeoutMs: number) => Promise<void>;
  /** Emptied first: what another process left there is nobody's. */
  readonly dir: string;
  readonly waits: (reason: string) => void;
  readonly log: Log;
}

/** Fills the folder; returns the digest of what is in it. */
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
        const error = fromStatus(caught, "fetching the tokenizer");
        options.log.debug({ rank: member.rank, reason: error.message, code: error.code }, "a rank did not give the tokenizer");
        reasons.push(
          `rank ${member.rank}: ${error.code === "Unimplemented" ? `it speaks another version of the wire than ${TextFiles.typeName}` : error.message}`,
        );
      }
    }
    options.waits(`waits for the tokenizer from a rank: ${reasons.join("; ")}`);
    await sleep(againMs.least);
    await options.changed(Math.min(againMs.most, againMs.least * 2 ** Math.min(round, 8)));
  }
}

type Client = ServiceClient<(typeof TextFiles)["method"]>;

async function fromRank({ rank, address }: Member, wanted: string | undefined, options: TextFetch): Promise<string> {
  const { identity, namespace, deployment, tls, network, dir } = options;
  const client = network.connect(TextFiles, { address, serverName: serverNames.rank(rank, namespace, deployment), tls });
  const sender = toSender(identity);
  try {
    await whenReady(client.channel, connectTimeoutMs);
    const reply = await client.list({ sender }, { deadline: Date.now() + listTimeoutMs });
    const files = fromTextList(reply);
    if (wanted !== undefined && reply.digest !== wanted)
      throw new AppError("its files are not those that most ranks have", { code: "DigestMismatch" });
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { recursive: true });
    for (const file of files) await readInto(join(dir, file.name), file, { client, sender });
    return reply.digest;
  } finally {
    client.close();
  }
}

interface Source {
  readonly client: Client;
  readonly sender: ReturnType<typeof toSender>;
}

async function readInto(path: string, file: TextFile, { client, sender }: Source): Promise<void> {
  const part = newPart(file);
  const out = await open(path, "w"); // before the call, whose error nobody would hear while this waits
  try {
    const call = client.read({ sender, name: file.name }, { deadline: Date.now() + readTimeoutMs });
    await receive(call, part, out, (why) => corrupt(file, why));
  } finally {
    await out.close();
  }
  if (part.received !== file.bytes) throw corrupt(file, `${part.received} of ${file.bytes} bytes came`);
  if (part.hash.digest("hex") !== file.sha256) throw corrupt(file, "it is not the file that the rank started with; restart the rank");
}

const corrupt = ({ name }: TextFile, why: string): AppError =>
  new AppError(`${name}: ${why}`, { code: "CorruptFile", operation: "fetching the tokenizer" });
