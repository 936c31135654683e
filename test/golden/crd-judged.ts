// CEL rules that are new or changed since a kept release, each judged by a person: the reason says why no object that the release
// accepted breaks it. Rules only; a narrower structure has no such way out. A row goes when no kept release lacks its rule.

/** Rule, as in the CRD -> why every object of the kept releases passes it. */
export const judgedRules: Readonly<Record<string, string>> = {
  "self.uri.startsWith('pvc://') || has(self.cache)": "v0.1.0 took no other uri than pvc://",
};
