// How a client finds an answer again at any gateway (DECISIONS.md 10): by its Idempotency-Key, or by the id of a streamed response.
import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import { invalid, type Problem, problems } from "../problem.ts";
import type { Keep } from "../routing/keep.ts";
import type { GenerationRequest } from "./generation-request.ts";

const keyPattern = /^[\x20-\x7e]{1,255}$/;
const responseIdPattern = /^resp_[0-9a-f]{32}$/;
/** A response whose request is longer is found by its key alone. */
const requestCharsMax = 256 * 1024;

const note = z.object({
  /** Unix seconds. */
  created: z.int(),
  seed: z.string(),
  stays: z.boolean(),
  /** The request of a streamed response, JSON. */
  request: z.string().optional(),
});
export type Note = z.infer<typeof note>;

/** What makes a repeated request the same. */
export interface Ticket {
  /** In the ids that the client sees. */
  readonly token: string;
  readonly keep: Keep;
  readonly note: Note;
}

interface Asked {
  /** The caller's credential, or who it stands for. */
  readonly tenant: string;
  readonly endpoint: GenerationRequest["endpoint"];
  readonly key: string | undefined;
  readonly stream: boolean;
  readonly json: unknown;
  readonly created: number;
  readonly seed: bigint;
}

function hash(...parts: readonly (string | number)[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

export const newToken = (): string => randomBytes(16).toString("hex");

/** The same for a repeated request. */
export const idOf = (token: string, ...parts: readonly (string | number)[]): string => hash(token, ...parts).slice(0, 32);

export function keyProblem(key: string | undefined): Problem | undefined {
  if (key === undefined || keyPattern.test(key)) return undefined;
  return invalid("`Idempotency-Key`: must be 1 to 255 printable ASCII characters.", "Idempotency-Key", "invalid_value");
}

/** Undefined for a request that nobody can come back to. */
export function ticketOf({ tenant, endpoint, key, stream, json, created, seed: drawn }: Asked): Ticket | undefined {
  if (key === undefined && !(endpoint === "responses" && stream)) return undefined;
  const token = key === undefined ? newToken() : hash("key", tenant, key).slice(0, 32);
  const seed = key === undefined ? drawn : BigInt(`0x${hash("seed", tenant, key).slice(0, 16)}`);
  const request = JSON.stringify(json);
  const findable = endpoint === "responses" && stream && request.length <= requestCharsMax;
  const made = { created, seed: String(seed), stays: key !== undefined, ...(findable ? { request } : {}) };
  return ticketFrom(tenant, token, made, { digest: hash(endpoint, request), isNew: key === undefined });
}

/** A response of another caller has another id at the ranks. */
export const keptId = (tenant: string, token: string): string => hash("kept", tenant, token);

/** Names a computation: another request under the same key is another one. */
export const computationOf = ({ id, digest }: Keep): string => `${id} ${Buffer.from(digest).toString("hex")}`;

function ticketFrom(tenant: string, token: string, made: Note, { digest, isNew }: { digest: string; isNew: boolean }): Ticket {
  const bytes = { digest: Buffer.from(digest, "hex"), note: Buffer.from(JSON.stringify(made)) };
  const keep = { id: keptId(tenant, token), ...bytes, stays: made.stays, isNew };
  return { token, keep, note: made };
}

/** The ticket of a streamed response, from what a rank keeps. */
export function ticketOfResponse(tenant: string, token: string, kept: Uint8Array): (Ticket & { readonly json: unknown }) | undefined {
  const made = readNote(kept);
  if (made?.request === undefined) return undefined;
  const ticket = ticketFrom(tenant, token, made, { digest: hash("responses", made.request), isNew: false });
  return { ...ticket, json: JSON.parse(made.request) };
}

export function readNote(kept: Uint8Array): Note | undefined {
  if (kept.length === 0) return undefined;
  return note.parse(JSON.parse(new TextDecoder().decode(kept)));
}

export interface Resumption {
  readonly token: string;
  readonly stream: boolean;
  /** Events up to this sequence number are left out; -1 = none. */
  readonly after: number;
}

const query = z.strictObject({
  stream: z.enum(["true", "false"], "must be true or false").default("false"),
  starting_after: z
    .string()
    .regex(/^\d{1,9}$/, "must be the sequence_number of an event")
    .optional(),
  include_obfuscation: z.literal("false", "not implemented").optional(),
});

export function resumption(id: string, given: Record<string, string>): Resumption | { readonly problem: Problem } {
  if (!responseIdPattern.test(id)) return { problem: problems.noResponse(id) };
  const read = query.safeParse(given);
  if (!read.success) {
    const [issue] = read.error.issues;
    const param = issue?.code === "unrecognized_keys" ? (issue.keys[0] ?? "") : String(issue?.path[0] ?? "");
    return { problem: invalid(`\`${param.slice(0, 64)}\`: ${issue?.message}.`, param.slice(0, 64), "invalid_value") };
  }
  const { stream, starting_after: after } = read.data;
  if (after !== undefined && stream !== "true")
    return { problem: invalid("`starting_after` needs `stream=true`.", "starting_after", "invalid_value") };
  return { token: id.slice("resp_".length), stream: stream === "true", after: after === undefined ? -1 : Number(after) };
}
