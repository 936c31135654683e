// CEL rules that are new or changed since the last tag, each judged by a person. A row goes when the last tag has its rule.

/** Rule, as in the CRD -> why every object of the last tag passes it. */
export const judgedRules: Readonly<Record<string, string>> = {};
