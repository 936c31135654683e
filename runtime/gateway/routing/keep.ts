// An answer that ranks keep (../DECISIONS.md 10); types only.

/** Ranks keep the answer, so that another gateway may go on with it. */
export interface Keep {
  readonly id: string;
  readonly digest: Uint8Array;
  readonly note: Uint8Array;
  /** It is computed on when the client leaves. */
  readonly stays: boolean;
  /** No rank is known to have it. */
  readonly isNew: boolean;
}

export interface Kept {
  readonly rank: number;
  readonly note: Uint8Array;
  readonly tokens: number;
  /** No more tokens are computed. */
  readonly over: boolean;
}
