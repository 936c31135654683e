// The interface of a download source: its listing and file requests.
import { z } from "zod";
import type { SourceSecret } from "../../../crds/model.ts";
import type { Http } from "./http.ts";
import type { Ask } from "./request.ts";

export const filesMax = 100_000;
/** Four times the largest known model. */
const fileBytesMax = 2 ** 43;
/** Excludes folders, hidden files, and characters that shells or paths interpret. */
const fileName = /^[A-Za-z0-9][A-Za-z0-9._+=-]{0,200}$/;
export const isFileName = (name: string): boolean => fileName.test(name);

export const remoteFileSchema = z.object({
  name: z.string().regex(fileName),
  bytes: z.int().min(0).max(fileBytesMax),
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
  /** A different tag means that the file changed. */
  etag: z.string().max(256).optional(),
});
export type RemoteFile = z.infer<typeof remoteFileSchema>;

export interface Listing {
  /** Undefined for sources without revisions. */
  readonly revision: string | undefined;
  readonly files: readonly RemoteFile[];
}

export interface Access {
  readonly http: Http;
  /** A key of the Secret, or a user's variable. */
  readonly secret: (key: SourceSecret) => string | undefined;
}

export interface RemoteModel {
  list(): Promise<Listing>;
  /** Adds sizes and hashes that the listing lacks, for picked files. */
  describe?(file: RemoteFile): Promise<RemoteFile>;
  /** Requests the listed version. */
  ask(file: RemoteFile, revision: string | undefined): Promise<Ask>;
}

export type RemoteSource = (uri: string, access: Access) => RemoteModel;

/** Undefined where it is none. */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
