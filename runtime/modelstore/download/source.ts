// The interface of a source that models are downloaded from: what it lists, and how each file is asked for. The registry is index.ts.
import { z } from "zod";
import type { SourceSecret } from "../../../crds/model.ts";
import type { Http } from "./http.ts";
import type { Ask } from "./request.ts";

/** Files of a listing, at most. */
export const filesMax = 100_000;
/** Bytes of one file, at most: four times the largest model known. */
const fileBytesMax = 2 ** 43;
/** Names of model files: no folders, nothing hidden, nothing that a shell or a path reads otherwise. */
const fileName = /^[A-Za-z0-9][A-Za-z0-9._+=-]{0,200}$/;
export const isFileName = (name: string): boolean => fileName.test(name);

export const remoteFileSchema = z.object({
  name: z.string().regex(fileName),
  bytes: z.int().min(0).max(fileBytesMax),
  /** Of the whole file, where the source tells it. */
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
  /** What the source calls this content, where it tells that: another one means that the file was changed meanwhile. */
  etag: z.string().max(256).optional(),
});
export type RemoteFile = z.infer<typeof remoteFileSchema>;

export interface Listing {
  /** What the revision stood for when it was listed; undefined where the source has no revisions. */
  readonly revision: string | undefined;
  readonly files: readonly RemoteFile[];
}

/** What a source may use. */
export interface Access {
  readonly http: Http;
  /** A key of the Secret, or a variable of the user's; undefined where it is not given. */
  readonly secret: (key: SourceSecret) => string | undefined;
}

/** A URI under the access that it is read with. */
export interface RemoteModel {
  /** The files that may belong to the model. */
  list(): Promise<Listing>;
  /** Sizes and hashes that the listing does not have; called for the files that are taken. */
  describe?(file: RemoteFile): Promise<RemoteFile>;
  /** The request for a file as it was when it was listed. */
  ask(file: RemoteFile, revision: string | undefined): Promise<Ask>;
}

export type RemoteSource = (uri: string, access: Access) => RemoteModel;
